"""A whole server on a socket, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import uvicorn

from yardmaster.server.batch.runner import running
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.http.app import create_app
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.http.run import uvicorn_config
from yardmaster.server.http.service import Service


class ServerThread:
    """Serves from its making on; `stop` ends it as a signal would.

    `buffer`: bytes that the kernel keeps of what is sent, which it else takes megabytes of.
    """

    def __init__(
        self, service: Service, config: HttpConfig, keyring: Keyring | None, buffer: int | None = None
    ) -> None:
        self.service, self.config, self.keyring = service, config, keyring
        self._listener = socket.socket()
        if buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self._listener.bind(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._up.wait(10)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with running(self.service, self.config, asyncio.Event()) as store:
            self.store = store
            self.app = create_app(self.service, self.config, self.keyring, store)
            self.server = uvicorn.Server(uvicorn_config(self.app, self.config))
            self.server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
            serving = asyncio.create_task(self.server.serve(sockets=[self._listener]))
            while not self.server.started:
                await asyncio.sleep(0.005)
            self._up.set()
            await serving

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
