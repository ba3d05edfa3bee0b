"""The engine as a front end of several has it: the hub's wire, and behind that whatever the hub's own client is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from ...engine.client import EngineDead, EngineOverloaded
from ...engine.live import Stream
from ...engine.messages import EngineStats, RankReport, RequestOutput, Submit
from ..fair.tenant import CALLER
from .messages import Abort, Answer, EngineState, Failed, News, Sequence, Stats

if TYPE_CHECKING:
    from .keys import DoorCaller

HUB_GONE = "the process that holds the engine has gone"

_LOADING_RETRY = 5


class HubClient:
    """See `EngineClient`. `send` puts a message on the wire; `hear` takes what comes. One event loop's alone."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self.dead: str | None = None
        self.ready = False
        self.max_model_len = 0
        self.tell = send
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[str, Stream] = {}
        self._stats_listeners: list[Callable[[int, EngineStats], None]] = []

    def number(self) -> int:
        """Of a question."""
        return next(self._numbers)

    async def ask(self, number: int, question: Any) -> Any:
        """Raises what the hub refuses it with, and EngineDead when there is no hub any more."""
        if self.dead == HUB_GONE:
            raise EngineDead(HUB_GONE)
        answer = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self.tell(question)
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    async def submit(self, request: Submit) -> Stream:
        if self.dead is not None:
            raise EngineDead(self.dead)
        if not self.ready:
            raise EngineOverloaded("the engine is still starting", _LOADING_RETRY)
        identity, number = request.request_id, self.number()
        if identity in self._streams:
            raise ValueError(f"a request with the id {identity!r} is already running")
        self._streams[identity] = stream = Stream(lambda: self._forget(identity))
        caller = CALLER.get()
        try:
            await self.ask(
                number, Sequence(number, request, None if caller is None else cast("DoorCaller", caller).number)
            )
        except asyncio.CancelledError:
            self._forget(identity)
            raise
        except BaseException:
            self._streams.pop(identity, None)
            raise
        return stream

    async def abort(self, request_id: str) -> None:
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.push(RequestOutput(request_id=request_id, finish_reason="abort"))
            self._forget(request_id)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def on_stats(self, listener: Callable[[int, EngineStats], None]) -> None:
        self._stats_listeners.append(listener)

    def on_report(self, listener: Callable[[RankReport], None]) -> None:
        """Never called: the hub keeps the ranks' counts."""

    def hear(self, message: Answer | EngineState | News | Failed | Stats) -> None:
        match message:
            case News():
                for output in message.outputs:
                    self._deliver(output)
            case Answer():
                answer = self._asked.get(message.number)
                if answer is not None and not answer.done():
                    if message.refusal is None:
                        answer.set_result(message.value)
                    else:
                        answer.set_exception(message.refusal.error)
            case Stats():
                for listener in self._stats_listeners:
                    listener(message.group, message.stats)
            case Failed():
                stream = self._streams.pop(message.request_id, None)
                if stream is not None:
                    stream.fail(message.refusal.error)
            case EngineState():
                # Sequences that live learn of an engine's death each for itself, after their last outputs.
                self.ready, self.max_model_len, self.dead = message.ready, message.max_model_len, message.dead

    def lose(self) -> None:
        """The hub has gone."""
        self.dead = HUB_GONE
        for stream in self._streams.values():
            stream.fail(HUB_GONE)
        self._streams.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EngineDead(HUB_GONE))

    def _deliver(self, output: RequestOutput) -> None:
        stream = self._streams.get(output.request_id)
        if stream is not None:
            stream.push(output)
            if output.finish_reason is not None:
                del self._streams[output.request_id]

    def _forget(self, request_id: str) -> None:
        if self._streams.pop(request_id, None) is not None:
            self.tell(Abort(request_id))
