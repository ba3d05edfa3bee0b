"""Several front ends before one engine: the hub starts them, hands them connections, and is the engine to them.

What must be one for the whole server is here: the engine's client with its fair queue, the keys' limits, the metrics'
sums, the listening socket. A front end has what costs time: HTTP, JSON, templates, tokens to text and back.

    hub ── engine's client ── ranks
     ├ front end 0      desk.py: messages (wire.py), handover.py: connections
     └ front end N-1
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from ...engine.client import EngineClient
from ...engine.config import EngineConfig
from ...engine.messages import EngineStats
from ...engine.watch import ending
from ..fair.keyring import Keyring
from ..http.config import HttpConfig
from ..responses.store import MEMORY
from .board import Board
from .desk import Desk
from .exchange import Exchange
from .handover import Handover, Hatch
from .messages import Begin, Cut, Drain, EngineState, Family, Keys, NotHere, Part, Relay, Stats, Stop

DOOR = (sys.executable, "-m", "yardmaster.server.hub.door")

_STATS_SECONDS = 0.1
SILENT_SECONDS = 30  # a front end says something every second: one that does not hangs, and its clients with it
_SPARE_SECONDS = 5.0  # beyond what a front end was given to end in
_CUT_SECONDS = 2.0
_LOSS_SECONDS = 5.0  # for the wire to be read out after a front end's end
_LONGEST_PAUSE = 30.0  # before one that ends again and again is started again
_SOUND_SECONDS = 60.0  # who has run so long may be started again at once


class _Front:
    """A front end that runs."""

    def __init__(self, desk: Desk, hatch: Hatch, process: asyncio.subprocess.Process) -> None:
        self.desk = desk
        self.hatch = hatch
        self.process = process
        self.up = False


class Hub:
    """`House` and `Hall`. `say` takes lines for the operator."""

    def __init__(
        self,
        engine: EngineConfig,
        http: HttpConfig,
        client: EngineClient,
        keys: Keyring | None,
        listener: socket.socket,
        say: Callable[[str], None],
    ) -> None:
        self.client = client
        self.keys = keys
        self._begin = Begin(engine=engine, http=http, log_level=logging.getLogger().getEffectiveLevel())
        self._size = http.api_servers
        self._say = say
        self._handover = Handover(listener)
        self._numbers = count(1)
        self._fronts: dict[int, _Front] = {}  # by their desk's number
        self._keepers: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._all_up = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stats: dict[int, EngineStats] = {}
        self._telling_stats = False
        self._exchange = Exchange()
        self._board = Board(http.served_model_names[0], client, keys, lambda: len(self._up()))
        client.on_stats(self._take_stats)
        if keys is not None:
            keys.listeners.append(self._tell_keys)

    # ---- House

    async def open(self) -> None:
        self._handover.begin()
        self._keepers = [asyncio.create_task(self._keep(index)) for index in range(self._size)]
        self._watching = asyncio.create_task(self._watch())

    async def up(self) -> None:
        await self._all_up.wait()

    async def ended(self) -> None:
        await asyncio.shield(self._failed)

    def engine_changed(self) -> None:
        self._tell(self._state())

    async def drain(self, seconds: int) -> None:
        self._leaving.set()
        self._handover.close()
        self._tell(Drain(seconds))
        await self._all_gone(seconds + _SPARE_SECONDS)
        self._kill()
        await self._all_gone(None)

    def cut(self) -> None:
        self._tell(Cut())
        asyncio.get_running_loop().call_later(_CUT_SECONDS, self._kill)

    async def close(self) -> None:
        """Whatever still runs ends at once."""
        self._leaving.set()
        self._handover.close()
        self._kill()
        await self._all_gone(None)
        if self._watching is not None:
            self._watching.cancel()
        if self.keys is not None:
            self.keys.listeners.remove(self._tell_keys)

    # ---- Hall

    def opened(self, desk: Desk) -> None:
        front = self._fronts[desk.number]
        front.up = True
        self._handover.add(front.hatch)
        if len(self._up()) == self._size:
            self._all_up.set()

    def broken(self, desk: Desk, reason: str) -> None:
        if self._all_up.is_set():
            self._say(f"a front end cannot begin: {reason}")
        elif not self._failed.done():
            self._failed.set_exception(ValueError(reason))

    def counted(self, desk: Desk, number: int, families: list[Family]) -> None:
        self._board.take(desk.number, number, families)

    def taken(self, desk: Desk, connections: int) -> None:
        self._fronts[desk.number].hatch.taken(connections)

    def closed(self, desk: Desk, connections: int) -> None:
        self._fronts[desk.number].hatch.closed(connections)

    async def scrape(self) -> bytes:
        return await self._board.scrape([front.desk.wire.send for front in self._up()])

    async def manage(self, verb: str) -> Any:
        if self.keys is None:
            raise ValueError("there is no keys file")
        match verb:
            case "list":
                return await self.keys.listing()
            case "reload":
                return await self.keys.reload()
            case "drain" | "undrain":
                return await self.keys.drain(verb == "drain")
        raise ValueError(f"unknown verb {verb}")

    def relay(self, desk: Desk, message: Relay | Part | NotHere | Stop) -> None:
        match message:
            case Relay():
                others = [front.desk for front in self._up() if front.desk is not desk]
                self._exchange.ask(desk, message, others)
            case Stop():
                self._exchange.stop(desk, message.number)
            case _:
                self._exchange.say(desk, message)

    # ---- processes

    async def _keep(self, index: int) -> None:
        """Keep one front end running."""
        loop, failures = asyncio.get_running_loop(), 0
        while not self._leaving.is_set():
            began = loop.time()
            try:
                code, was_up = await self._run()
                end = ending(code)
            except OSError as error:  # no descriptors, no memory
                end, was_up = f"could not be started: {error.strerror or error}", False
            if self._leaving.is_set() or self._failed.done():
                return
            if not was_up and not self._all_up.is_set():
                self._failed.set_exception(ValueError(f"a front-end process {end} before it could serve"))
                return
            failures = 1 if loop.time() - began > _SOUND_SECONDS else failures + 1
            self._say(f"front end {index} {end}; its requests are lost, another one is started")
            self._board.restarts.inc()
            pause = min(_LONGEST_PAUSE, 2.0 ** (failures - 3)) if failures > 1 else 0.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), pause)

    async def _watch(self) -> None:
        """End the front ends that hang. Turns are counted, not time: where the hub itself stood still, all did."""
        while True:
            await asyncio.sleep(1)
            for front in self._up():
                front.desk.silence += 1
                if front.desk.silence == SILENT_SECONDS:
                    self._say(f"a front end has said nothing for {SILENT_SECONDS} s: it hangs, and is ended")
                    self._end(front)

    async def _run(self) -> tuple[int, bool]:
        """One process from its start to its end: the exit code, and whether it ever took connections."""
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        here, there = socket.socketpair()
        here.setblocking(False)
        with theirs, there:
            process = await asyncio.create_subprocess_exec(
                *(*DOOR, str(theirs.fileno()), str(there.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), there.fileno()),
                start_new_session=True,  # signals at a terminal are for the hub, which tells the front ends
            )
        desk = Desk(self, number)
        self._fronts[number] = front = _Front(desk, Hatch(here), process)
        try:
            if self._leaving.is_set():
                process.kill()
            await desk.open(ours, self._begin)
            desk.wire.send(self._state())
            if self.keys is not None:
                desk.wire.send(self._keys())
            code = await process.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOSS_SECONDS):
                    await desk.lost.wait()
        finally:
            if process.returncode is None:
                process.kill()
            was_up, front.up = front.up, False
            self._handover.remove(front.hatch)
            await desk.wire.close()
            desk.leave()
            self._exchange.bury(desk)
            await desk.settled()
            del self._fronts[number]
            self._board.bury(number)
        return code, was_up

    async def _all_gone(self, seconds: float | None) -> None:
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=seconds)

    def _kill(self) -> None:
        for front in self._fronts.values():
            self._end(front)

    def _end(self, front: _Front) -> None:
        if front.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                front.process.kill()

    def _up(self) -> list[_Front]:
        return [front for front in self._fronts.values() if front.up]

    # ---- what all are told

    def _tell(self, message: Any) -> None:
        for front in self._fronts.values():
            front.desk.wire.send(message)

    def _tell_keys(self) -> None:
        self._tell(self._keys())

    def _keys(self) -> Keys:
        assert self.keys is not None
        return Keys([tenant.spec for tenant in self.keys.tenants.values()], self.keys.draining)

    def _state(self) -> EngineState:
        return EngineState(self.client.ready, self.client.max_model_len, self.client.dead)

    def _take_stats(self, group: int, stats: EngineStats) -> None:
        self._stats[group] = stats
        if not self._telling_stats:
            self._telling_stats = True
            asyncio.get_running_loop().call_later(_STATS_SECONDS, self._tell_stats)

    def _tell_stats(self) -> None:
        self._telling_stats = False
        for group, stats in self._stats.items():
            self._tell(Stats(group, stats))
        self._stats.clear()


@asynccontextmanager
async def in_processes(
    engine: EngineConfig,
    http: HttpConfig,
    client: EngineClient,
    keys: Keyring | None,
    listener: socket.socket,
    say: Callable[[str], None],
) -> AsyncIterator[Hub]:
    """Front ends in `http.api_servers` processes, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="yardmaster-", ignore_cleanup_errors=True) as folder:
        if http.response_store == MEMORY:  # as lasting, and every front end sees the same
            http = replace(http, response_store=str(Path(folder) / "responses.sqlite"))
        hub = Hub(engine, http, client, keys, listener, say)
        await hub.open()
        try:
            yield hub
        finally:
            await hub.close()
