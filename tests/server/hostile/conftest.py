"""A whole server on a socket: keys of a file, batches, a store of responses, and an engine that plays scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from yardmaster.server.batch.config import BatchConfig
from yardmaster.server.fair.client import FairClient
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.http.service import Service
from yardmaster.server.text.formats.registry import ChatFormat
from yardmaster.server.text.grammar_book import GrammarBook
from yardmaster.server.text.grammar_process import GrammarChecks
from yardmaster.tests.server.server_thread import ServerThread

KEYS = {"alice": "key-of-alice", "bob": "key-of-bob-1", "ops": "key-of-ops-12345"}
FILE = "keys:\n" + "".join(
    f"  - {{name: {name}, key: {key}{', admin: true' if name == 'ops' else ''}}}\n" for name, key in KEYS.items()
)


class House(ServerThread):
    """A server with every route there is."""

    def __init__(
        self, stage: Any, folder: Path, keys: bool, checks: GrammarChecks | None, buffer: int | None, **config: Any
    ) -> None:
        self.stage = stage
        file = folder / "keys.yaml"
        file.write_text(FILE)
        keyring = Keyring(file) if keys else None
        batch = BatchConfig(str(folder / "batches"), poll=0.05, retry=0.05)
        http = HttpConfig(("test-model",), keys_file=str(file) if keys else None, batch=batch, **config)
        client = stage.engine
        if keyring is not None:
            bounds = {"max_running": 4096, "max_waiting": 4096, "max_starting": 1 << 30, "step_tokens": 1 << 20}
            client = FairClient(stage.engine, keyring, **bounds)
        service = Service(
            client=client,
            tokenizer=stage.tokenizer,
            template=None if stage.chat else stage.template,
            chat=stage.chat,
            metrics=stage.metrics,
            vocab_size=stage.tokenizer.vocab_size,
            eos_token_ids=(stage.eos,),
            format=ChatFormat(),
            grammars=stage.grammars if checks is None else GrammarBook(checks),
        )
        super().__init__(service, http, keyring, buffer)

    def ask(self, of: Coroutine[Any, Any, Any]) -> Any:
        """Run `of` on the server's own event loop."""
        return asyncio.run_coroutine_threadsafe(of, self.loop).result(20)

    def tasks(self) -> int:
        """How many the server's event loop has."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return int(self.ask(count()))

    def http(self, key: str | None = "alice", **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers(key), timeout=20, **options)

    def headers(self, key: str | None = "alice") -> dict[str, str]:
        return {"authorization": f"Bearer {KEYS[key]}"} if self.keyring is not None and key else {}


@pytest.fixture
def open_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """`open_house(stage, keys=True, checks=None, buffer=None, **config)`."""
    houses: list[House] = []

    def start(
        stage: Any, keys: bool = True, checks: GrammarChecks | None = None, buffer: int | None = None, **config: Any
    ) -> House:
        folder = tmp_path / f"house{len(houses)}"
        folder.mkdir()
        houses.append(House(stage, folder, keys, checks, buffer, **config))
        return houses[-1]

    yield start
    for house in houses:
        house.stop()
