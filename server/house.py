"""What answers HTTP in front of an engine, in this process; several such processes are server/hub's affair."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from ..engine.client import EngineClient
from ..engine.config import EngineConfig
from .batch.runner import running
from .fair.keyring import Keyring
from .fair.metrics import KeyCollector
from .fair.ring import Keys
from .http.app import create_app
from .http.config import HttpConfig
from .http.run import uvicorn_config
from .hub.neighbours import Neighbours
from .make_service import make_service
from .metrics import Metrics


class House(Protocol):
    """HTTP's side of a server, from the front's point of view."""

    async def up(self) -> None:
        """Return when connections are taken."""

    async def ended(self) -> None:
        """Return, or raise, when it cannot go on by itself."""

    def engine_changed(self) -> None:
        """The engine is ready, or dead."""

    async def drain(self, seconds: int) -> None:
        """Take no more connections; return when what runs has ended, or after `seconds` has been cut off."""

    def cut(self) -> None:
        """End what `drain` still waits for."""


class Server(uvicorn.Server):
    """uvicorn, but signals are not its own: they end the engine too."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def application(
    engine: EngineConfig,
    http: HttpConfig,
    client: EngineClient,
    keys: Keys | None,
    stop: asyncio.Event,
    metrics: Metrics | None = None,
    neighbours: Neighbours | None = None,
) -> AsyncIterator[FastAPI]:
    """The application over a checkpoint, its batches running until `stop`. Raises ValueError, one line."""
    service = await asyncio.to_thread(make_service, engine, http, client, metrics)
    try:
        if isinstance(keys, Keyring):  # else they are counted elsewhere
            service.metrics.registry.register(KeyCollector(keys))
        async with running(service, http, stop, keys) as store:
            yield create_app(service, http, keys, store, neighbours)
    finally:
        if service.template is not None:
            service.template.close()


class OneProcess:
    """A `House`: the application in this process, on a bound socket."""

    def __init__(self, app: FastAPI, http: HttpConfig, listener: socket.socket) -> None:
        self._server = Server(uvicorn_config(app, http))
        gc.collect()
        gc.freeze()  # what start-up has made lives as long as the server
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def up(self) -> None:
        await self._server.listening.wait()

    async def ended(self) -> None:
        await asyncio.shield(self._serving)

    def engine_changed(self) -> None: ...

    async def drain(self, seconds: int) -> None:
        self._server.config.timeout_graceful_shutdown = seconds
        self._server.should_exit = True
        await self._serving

    def cut(self) -> None:
        self._server.force_exit = True


@asynccontextmanager
async def in_this_process(
    engine: EngineConfig,
    http: HttpConfig,
    client: EngineClient,
    keys: Keyring | None,
    listener: socket.socket,
    stop: asyncio.Event,
) -> AsyncIterator[OneProcess]:
    """It answers from the first moment: /ready and the model's routes say 503 until the engine is up."""
    async with application(engine, http, client, keys, stop) as app:
        yield OneProcess(app, http, listener)
