"""A running server of several front-end processes over the fake rank, and what is asked of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from yardmaster.tests.server_process import ServerProcess

SERVE = Path(__file__).with_name("hub_serve.py")
VOCABULARY, SLOW_TOKEN = 50_000, 7  # the fake rank's


class Server(ServerProcess):
    """A running server and every process under it."""

    def __init__(self, model: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> None:
        super().__init__(SERVE, model, *arguments, launcher=launcher)
        self.family: list[psutil.Process] = []
        try:
            self.wait_until(lambda: "ready: " in self.output, 90)
        except AssertionError:
            self.close()
            raise
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    @property
    def doors(self) -> list[psutil.Process]:
        every = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in every if "yardmaster.server.hub.door" in p.cmdline()]

    def post(self, key: str, tokens: int = 4, prompt: tuple[int, ...] = (5, 1), **more: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/completions", json=body(tokens, prompt) | more, headers=bearer(key), timeout=30
        )

    def stream(self, key: str, tokens: int, prompt: tuple[int, ...] = (SLOW_TOKEN, 1)) -> Iterator[str]:
        json = body(tokens, prompt) | {"stream": True}
        with httpx.stream("POST", f"{self.url}/v1/completions", json=json, headers=bearer(key), timeout=30) as response:
            assert response.status_code == 200
            yield from (line for line in response.iter_lines() if line)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; each appears once."""
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        lines = re.findall(rf"^yardmaster_{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        assert all(count == 1 for count in Counter(given for given, _ in lines).values())
        return sum(float(v) for given, v in lines if all(f'{k}="{value}"' in given for k, value in labels.items()))

    def left(self, seconds: float) -> list[psutil.Process]:
        psutil.wait_procs(self.family, timeout=seconds)
        return [p for p in self.family if p.is_running() and p.status() != "zombie"]

    def close(self) -> None:
        every = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        for process in [*every, *self.family]:
            if process.is_running():
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def body(tokens: int, prompt: tuple[int, ...]) -> dict[str, Any]:
    return {"prompt": list(prompt), "max_tokens": tokens, "ignore_eos": True, "return_token_ids": True}


def expected(prompt: tuple[int, ...], count: int) -> list[int]:
    """What the fake rank generates: each token depends on all before it."""
    tokens = list(prompt)
    for _ in range(count):
        state = 17
        for token in tokens:
            state = (state * 31 + token + 1) % VOCABULARY
        tokens.append(state)
    return tokens[len(prompt) :]


def token_ids(events: list[str]) -> list[int]:
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event != "data: [DONE]"]
    return [token for chunk in chunks for choice in chunk["choices"] for token in choice.get("token_ids") or ()]
