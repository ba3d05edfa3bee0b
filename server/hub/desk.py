"""The hub's side of one front end: what it asks is answered, and what it leaves behind when it dies is cleared away."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

from ...engine.client import EngineClient
from ...engine.live import Stream, merged
from ...engine.messages import RequestOutput
from ..fair.keyring import Keyring
from ..fair.tenant import CALLER, Caller
from ..http.errors import report
from ..http.middleware import unknown_key
from .messages import (
    BUG,
    Abort,
    Answer,
    Broken,
    Closed,
    Counted,
    Enter,
    Failed,
    Family,
    FromDoor,
    Leave,
    Limits,
    Manage,
    News,
    NotHere,
    Part,
    Refusal,
    Relay,
    Scrape,
    Sequence,
    Stop,
    Took,
    Up,
    from_door,
)
from .wire import Wire

log = logging.getLogger("yardmaster.hub")

_MERGE_AT = 4096  # outputs for a front end that is behind, before they are merged


class Hall(Protocol):
    """What a desk needs of the hub: what all front ends share."""

    client: EngineClient
    keys: Keyring | None

    def opened(self, desk: Desk) -> None:
        """It takes connections from now on."""

    def broken(self, desk: Desk, reason: str) -> None:
        """It cannot begin, and no other could."""

    def counted(self, desk: Desk, number: int, families: list[Family]) -> None: ...

    def taken(self, desk: Desk, connections: int) -> None: ...

    def closed(self, desk: Desk, connections: int) -> None: ...

    async def scrape(self) -> bytes: ...

    async def manage(self, verb: str) -> Any:
        """Of an admin. Raises ValueError."""

    def relay(self, desk: Desk, message: Relay | Part | NotHere | Stop) -> None:
        """Between `desk` and the others."""


class Desk:
    """`number` tells front ends apart for good."""

    def __init__(self, hall: Hall, number: int) -> None:
        self.number = number
        self.wire = Wire(from_door, self._hear, self.leave, self._flush)
        self.lost = asyncio.Event()
        self.silence = 0  # turns of the hub's watch since the last message
        self._hall = hall
        self._live: dict[str, AsyncIterator[RequestOutput]] = {}
        self._callers: dict[int, Caller] = {}
        # What has been asked for and is not there yet. True: meanwhile it is not wanted any more.
        self._coming: dict[str, bool] = {}
        self._entering: dict[int, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: list[RequestOutput] = []
        self._flushing = False

    async def open(self, end: socket.socket, begin: Any) -> None:
        await self.wire.open(end)
        self.wire.send(begin)

    def leave(self) -> None:
        """The front end has gone: nobody reads its sequences any more, and its requests are over."""
        if not self.lost.is_set():
            self.lost.set()
            self._start(self._clear())

    async def settled(self) -> None:
        """Return when all that it left behind is cleared away."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _clear(self) -> None:
        for identity in list(self._live):
            await self._hall.client.abort(identity)
        for caller in self._callers.values():
            caller.drop()
        self._callers.clear()

    def _hear(self, message: FromDoor) -> None:
        self.silence = 0
        match message:
            case Sequence():
                self._coming[message.submit.request_id] = False
                self._start(self._play(message))
            case Abort():
                if message.request_id in self._live:
                    self._start(self._hall.client.abort(message.request_id))
                elif message.request_id in self._coming:
                    self._coming[message.request_id] = True
            case Enter():
                self._entering[message.number] = False
                self._start(self._answer(message.number, lambda: self._enter(message)))
            case Leave():
                if (caller := self._callers.pop(message.caller, None)) is not None:
                    caller.drop()
                elif message.caller in self._entering:
                    self._entering[message.caller] = True
            case Limits():
                self._start(self._answer(message.number, lambda: self._limits(message.name)))
            case Took():
                self._hall.taken(self, message.connections)
            case Closed():
                self._hall.closed(self, message.connections)
            case Counted():
                self._hall.counted(self, message.number, message.families)
            case Scrape():
                self._start(self._answer(message.number, self._hall.scrape))
            case Manage():
                self._start(self._answer(message.number, lambda: self._hall.manage(message.verb)))
            case Relay() | Part() | NotHere() | Stop():
                self._hall.relay(self, message)
            case Up():
                self._hall.opened(self)
            case Broken():
                self._hall.broken(self, message.message)

    async def _play(self, message: Sequence) -> None:
        """Hand a sequence to the engine and its outputs to the front end."""
        identity = message.submit.request_id
        if self._coming[identity] or self.lost.is_set():  # its caller may have left, too
            del self._coming[identity]
            self.wire.send(Answer(message.number))
            return
        try:
            if message.caller is not None:
                CALLER.set(self._callers[message.caller])  # in this task alone
            outputs = await self._hall.client.submit(message.submit)
        except Exception as error:
            del self._coming[identity]
            self.wire.send(Answer(message.number, refusal=_refusal(error, identity)))
            return
        self._live[identity] = outputs
        unwanted = self._coming.pop(identity)
        self.wire.send(Answer(message.number))
        try:
            if unwanted or self.lost.is_set():  # while the engine made up its mind
                await self._hall.client.abort(identity)
            if isinstance(outputs, Stream):
                await self._pour(outputs)
            else:
                async for output in outputs:
                    self._push(output)
        except Exception as error:
            self._flush()
            self.wire.send(Failed(identity, _refusal(error, identity)))
        finally:
            del self._live[identity]

    async def _pour(self, outputs: Stream) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(output: RequestOutput | Exception) -> None:
            if isinstance(output, RequestOutput):
                self._push(output)
                if output.finish_reason is not None and not over.done():
                    over.set_result(None)
            elif not over.done():
                over.set_exception(output)

        outputs.pour(take)
        await over

    def _push(self, output: RequestOutput) -> None:
        self._pending.append(output)
        if self.wire.full:
            if len(self._pending) >= _MERGE_AT:
                self._pending = _by_request(self._pending)
        elif not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """All outputs of one turn of the loop are one message; for a front end that was behind, all since then."""
        self._flushing = False
        if self._pending:
            outputs, self._pending = self._pending, []
            self.wire.send(News(outputs))

    async def _enter(self, message: Enter) -> None:
        keys = self._hall.keys
        tenant = None if keys is None else keys.tenants.get(message.name)
        try:
            if keys is None or tenant is None:  # the file was read anew this moment
                raise unknown_key()
            caller = await keys.enter(tenant, message.deadline, message.background)
        finally:
            left = self._entering.pop(message.number)
        if left or self.lost.is_set():
            caller.drop()
        else:
            self._callers[message.number] = caller

    async def _limits(self, name: str) -> list[tuple[bytes, bytes]]:
        keys = self._hall.keys
        tenant = None if keys is None else keys.tenants.get(name)
        return [] if tenant is None else tenant.headers

    async def _answer(self, number: int, find: Callable[[], Awaitable[Any]]) -> None:
        try:
            answer = Answer(number, await find())
        except Exception as error:
            answer = Answer(number, refusal=_refusal(error, "of a front end"))
        self.wire.send(answer)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _refusal(error: Exception, what: str) -> Refusal:
    refusal = Refusal.of(error)
    if refusal is None:
        report(log, what, error)
    return refusal or BUG


def _by_request(outputs: list[RequestOutput]) -> list[RequestOutput]:
    """One output a request; requests in the order of their first."""
    parts: dict[str, list[RequestOutput]] = {}
    for output in outputs:
        parts.setdefault(output.request_id, []).append(output)
    return [merged(each) for each in parts.values()]
