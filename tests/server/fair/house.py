"""An application with a keys file, and what its answers say of keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx

from yardmaster.server.fair.client import FairClient
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.fair.metrics import KeyCollector
from yardmaster.server.http.app import create_app
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.http.service import Service

TEXT = "/v1/completions"
PROMPT = {"prompt": [1, 2, 3], "max_tokens": 7}
ADMIN = "key-of-ops-12345"
FILE = f"""keys:
  - {{name: alice, key: key-of-alice, requests_per_minute: 3, tokens_per_minute: 100, max_concurrent: 2}}
  - {{name: bob, key: key-of-bob-1, weight: 4}}
  - {{name: ops, key: {ADMIN}, admin: true}}
"""


class House:
    """An application with a keys file, over a test's scripted engine."""

    def __init__(self, stage: Any, folder: Path, text: str = FILE, **bounds: int) -> None:
        self.now = 1000.0
        self.file = folder / "keys.yaml"
        self.file.write_text(text)
        self.keys = Keyring(self.file, lambda: self.now)
        bounds = {"max_running": 8, "max_waiting": 8, "max_starting": 1 << 30, "step_tokens": 1 << 20} | bounds
        self.client = FairClient(stage.engine, self.keys, **bounds)  # type: ignore[arg-type]
        service = Service(
            client=self.client,
            tokenizer=stage.tokenizer,
            template=stage.template,
            metrics=stage.metrics,
            vocab_size=stage.tokenizer.vocab_size,
            eos_token_ids=(stage.eos,),
        )
        stage.metrics.registry.register(KeyCollector(self.keys))
        self.config = HttpConfig(("test-model",), keys_file=str(self.file))
        self.app = create_app(service, self.config, self.keys)

    def run(self, test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def go() -> None:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                with anyio.fail_after(20):
                    await test(http)

        anyio.run(go)


def held(script: Callable[[Any], Any], answer: asyncio.Event) -> Callable[[Any], Iterator[Any]]:
    """`script`, from when `answer` is set."""

    def play(submit: Any) -> Iterator[Any]:
        while not answer.is_set():
            yield 0.002
        yield from script(submit)

    return play


async def until(true: Callable[[], Any]) -> None:
    """Return when it is true; fails after a while."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def by(name: str, **more: str) -> dict[str, str]:
    key = {"alice": "key-of-alice", "bob": "key-of-bob-1", "ops": ADMIN}[name]
    return {"authorization": f"Bearer {key}"} | more


def error(response: httpx.Response, status: int, code: str) -> Any:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


def limits(response: httpx.Response) -> dict[str, str]:
    prefix = "x-ratelimit-"
    return {name.removeprefix(prefix): value for name, value in response.headers.items() if name.startswith(prefix)}
