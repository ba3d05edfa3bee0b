"""A live server with the scripted engine, as a client library meets it; and nothing else of the network."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from yardmaster.engine.messages import Submit
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.tests.server.conftest import Stage, harmony_text, serving

__all__ = ["harmony_text"]

MODEL = "openai/gpt-oss-20b"
KEY = "sk-test-key-0123456789"
QUIET = {
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
NOT_HERE = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY")

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # before it is imported: no price list from the network


class Served:
    """A server on a port of its own. `plays` says what the model answers, one text a request."""

    model = MODEL
    key = KEY

    def __init__(self, stage: Stage, start: Callable[..., str]) -> None:
        self.stage = stage
        self._texts: list[str] = []
        stage.engine.script = self._next
        self.root = start(stage.app(names=(MODEL,), api_keys=(KEY,)), stage.config)
        self.url = f"{self.root}/v1"

    def plays(self, *texts: str) -> None:
        """What comes of the next requests, in their order. One request more is an error of the server."""
        self._texts = list(texts)

    def _next(self, submit: Submit) -> Any:
        return self.stage.say(self._texts.pop(0), size=3)(submit)

    @contextlib.contextmanager
    def playing(self, *spoken: Any, **how: Any) -> Iterator[None]:
        """Every request meanwhile gets what `Stage.say` makes of the arguments."""
        before, self.stage.engine.script = self.stage.engine.script, self.stage.say(*spoken, **how)
        try:
            yield
        finally:
            self.stage.engine.script = before

    @property
    def left(self) -> list[str]:
        """What nobody asked for."""
        return self._texts

    @property
    def prompt(self) -> str:
        """What the model saw last, control tokens by their names."""
        return self.stage.tokenizer.decode(self.stage.engine.submitted[-1].prompt_token_ids, False)

    @property
    def grammar(self) -> str | None:
        """What the last answer was bound to."""
        return self.stage.engine.submitted[-1].grammar


@pytest.fixture(scope="module")
def running(harmony_text: Any, offline: None) -> Iterator[Served]:
    with serving() as start:
        yield Served(Stage(*harmony_text, harmony=True), start)


@pytest.fixture
def served(running: Served) -> Iterator[Served]:
    """The server, with nothing to say."""
    engine = running.stage.engine
    running.plays()
    yield running
    engine.refuse = None
    engine.submitted.clear()
    engine.aborted.clear()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clients") / "tiny"
    write_random_checkpoint(directory, small_gpt_oss(vocab_size=700, hidden_size=64, num_layers=2), dtype="float32")
    return directory


@pytest.fixture(scope="session")
def url(checkpoint: Path) -> Iterator[str]:
    """`yardmaster serve` with a model of random weights."""
    command = [sys.executable, "-m", "yardmaster", "serve", str(checkpoint), "--port", "0", "--device", "cpu"]
    command += [
        "--max-model-len",
        "1024",
        "--kv-cache-memory-bytes",
        str(16 << 20),
        "--served-model-name",
        "tiny",
        "--num-cpu-threads",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout
            lines = []
            for line in server.stdout:
                lines.append(line)
                if line.startswith("ready: "):
                    yield line.removeprefix("ready: ").strip()
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            server.terminate()


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """Clients that would phone home, for a price list or a trace, find nobody: loopback alone has addresses."""
    resolve = socket.getaddrinfo

    def local(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "", "127.0.0.1", "localhost", "::1", "0.0.0.0"):
            raise socket.gaierror(socket.EAI_NONAME, f"tests have no network: {name}")
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        for name in NOT_HERE:
            patch.delenv(name, raising=False)
        patch.setattr(socket, "getaddrinfo", local)
        yield
