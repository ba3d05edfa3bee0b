"""A front end of several: the application of a server in a process of its own, its engine and its keys at the hub.

    python -m yardmaster.server.hub.door WIRE CONNECTIONS

Both are descriptors that the hub left open. Signals are for the hub, which says when to leave; when it goes, this
goes too.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvloop

from ... import __version__
from ..house import Server, application
from ..http.config import HttpConfig
from ..http.run import uvicorn_config
from ..metrics import Metrics
from .client import HubClient
from .counts import families
from .handover import receive
from .keys import DoorKeys
from .messages import (
    Alive,
    Begin,
    Broken,
    Closed,
    Count,
    Counted,
    Cut,
    Drain,
    Family,
    Keys,
    NotHere,
    Part,
    Relay,
    Scrape,
    Stop,
    ToDoor,
    Took,
    Up,
    to_door,
)
from .neighbours import Neighbours
from .wire import Wire

log = logging.getLogger("yardmaster.hub")

_COUNT_SECONDS = 1.0  # between two accounts of what was counted
_ORPHAN_SECONDS = 2  # for answers under way to end with their error, once the hub has gone


class DoorMetrics(Metrics):
    """What this process counts; the hub adds it up."""

    def __init__(self, model: str, hub: HubClient) -> None:
        super().__init__(model, __version__)
        self._hub = hub

    async def scrape(self) -> bytes:
        number = self._hub.number()
        found: bytes = await self._hub.ask(number, Scrape(number))
        return found


class Door:
    """One run of a front end."""

    def __init__(self, wire: socket.socket, connections: socket.socket) -> None:
        self._end = wire
        self._connections = connections
        self._wire: Wire[ToDoor] = Wire(to_door, self._hear, self._lose)
        self._client = HubClient(self._wire.send)
        self._neighbours = Neighbours(self._client)
        self._keys: DoorKeys | None = None
        self._metrics: Metrics | None = None
        self._begin: asyncio.Future[Begin | None] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._seconds = 0  # for what runs to end, once it is to leave
        self._server: Server | None = None
        self._protocol: Callable[[], asyncio.Protocol] = asyncio.Protocol
        self._arriving: set[asyncio.Task[None]] = set()
        self._told: list[Family] = []
        self._took = self._closed = 0  # connections that the hub has not been told of

    async def run(self) -> int:
        await self._wire.open(self._end)
        begin = await self._begin
        if begin is None:
            return 1
        logging.basicConfig(level=begin.log_level, format="%(levelname)s %(name)s: %(message)s")
        http = begin.http
        self._metrics = metrics = DoorMetrics(http.served_model_names[0], self._client)
        try:
            async with application(
                begin.engine, http, self._client, self._keys, self._leave, metrics, self._neighbours
            ) as app:
                await self._serve(app, http)
        except ValueError as error:
            self._wire.send(Broken(str(error)))
            return 2
        finally:
            self._count(0)
            await self._wire.close()
        return 0

    async def _serve(self, app: Any, http: HttpConfig) -> None:
        config = uvicorn_config(app, http)
        config.load()
        kind = self._counting(config.http_protocol_class)
        self._server = server = Server(config)
        self._protocol = lambda: kind(config, server.server_state, server.lifespan.state)
        gc.collect()
        gc.freeze()  # what start-up has made lives as long as the server
        loop = asyncio.get_running_loop()
        serving = asyncio.create_task(server.serve(sockets=[]))
        counting = asyncio.create_task(self._keep_in_touch())
        await server.listening.wait()
        loop.add_reader(self._connections, self._adopt)
        self._wire.send(Up())
        leaving = asyncio.create_task(self._leave.wait())
        await asyncio.wait({leaving, serving}, return_when=asyncio.FIRST_COMPLETED)
        loop.remove_reader(self._connections)
        self._adopt()  # what was handed over before the hub said so
        config.timeout_graceful_shutdown = self._seconds
        server.should_exit = True
        await serving
        for task in (counting, leaving):
            task.cancel()

    def _hear(self, message: ToDoor) -> None:
        match message:
            case Begin():
                if message.http.keys_file is not None:  # at once: the keys themselves may be the next message
                    self._keys = DoorKeys(self._client)
                self._begin.set_result(message)
            case Keys():
                if self._keys is not None:
                    self._keys.take(message)
            case Count():
                self._count(message.number)
            case Drain():
                self._go(message.seconds)
            case Cut():
                self._go(0)
                if self._server is not None:
                    self._server.force_exit = True
            case Relay() | Part() | NotHere() | Stop():
                self._neighbours.hear(message)
            case _:
                self._client.hear(message)

    def _lose(self) -> None:
        """The hub has gone."""
        self._client.lose()
        if not self._begin.done():
            self._begin.set_result(None)
        self._go(_ORPHAN_SECONDS)

    def _go(self, seconds: int) -> None:
        if not self._leave.is_set():
            self._seconds = seconds
            self._leave.set()

    def _adopt(self) -> None:
        """Serve the connections that the hub has accepted."""
        loop = asyncio.get_running_loop()
        try:
            connections = receive(self._connections)
        except EOFError:
            loop.remove_reader(self._connections)
            return
        for connection in connections:
            task = loop.create_task(self._welcome(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)
        self._note(took=len(connections))

    async def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # its client has gone already
            connection.close()
            self._note(closed=1)

    def _counting(self, protocol: Any) -> Any:
        """The class `protocol`, whose connections are counted when they end."""
        note = self._note

        class CountingProtocol(protocol):  # type: ignore[misc]
            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                note(closed=1)

        return CountingProtocol

    def _note(self, took: int = 0, closed: int = 0) -> None:
        """The hub is told once a turn of the loop."""
        if not (self._took or self._closed):
            asyncio.get_running_loop().call_soon(self._tell_noted)
        self._took += took
        self._closed += closed

    def _tell_noted(self) -> None:
        if self._took:
            self._wire.send(Took(self._took))
        if self._closed:
            self._wire.send(Closed(self._closed))
        self._took = self._closed = 0

    def _count(self, number: int) -> None:
        if self._metrics is not None:
            self._told = families(self._metrics.counted)
            self._wire.send(Counted(number, self._told))

    async def _keep_in_touch(self) -> None:
        """If this process dies, what it counted in its last second is all that gets lost; if it hangs, the hub sees."""
        while self._metrics is not None:
            await asyncio.sleep(_COUNT_SECONDS)
            if families(self._metrics.counted) != self._told:
                self._count(0)
            else:
                self._wire.send(Alive())


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wire, connections = (socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:])
    for end in (wire, connections):
        end.setblocking(False)

    async def run() -> int:
        return await Door(wire, connections).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


if __name__ == "__main__":
    sys.exit(main())
