"""An engine for work that nobody waits for: its requests run behind everybody else's, and few at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace

import msgspec

from ... import __version__
from ...engine.client import EngineClient, EngineOverloaded
from ...engine.client_around import ClientAround
from ...engine.messages import EngineStats, RequestOutput, Submit
from ..http.service import Service
from ..metrics import Metrics

PRIORITY = 1 << 32  # lower runs first: behind whatever a request may ask for
_STALE_SECONDS = 5.0  # older statistics say nothing about now
_LOOK_SECONDS = 0.05


def behind(service: Service, model: str, max_running: int) -> Service:
    """`service` for requests that come after everybody else's.

    With metrics of their own, which nobody reads: they may wait for hours, and the server's latencies are not that.
    """
    client = BackgroundClient(service.client, max_running)
    return replace(service, client=client, metrics=Metrics(model, __version__))


class BackgroundClient(ClientAround):
    """An `EngineClient` whose requests come last, and few at a time: only while nobody waits in the engine's queues."""

    def __init__(self, inner: EngineClient, max_running: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(inner)
        self._clock = clock
        self._places = asyncio.Semaphore(max_running)
        self._holders: set[str] = set()
        self._waiting: dict[int, tuple[float, int]] = {}  # by group: when heard, and how many waited
        inner.on_stats(self._hear)

    async def submit(self, request: Submit) -> AsyncGenerator[RequestOutput, None]:
        """Takes its time, and never finds the engine overloaded. Raises EngineDead."""
        await self._places.acquire()
        self._holders.add(request.request_id)
        try:
            while True:
                while self._crowded():
                    await asyncio.sleep(_LOOK_SECONDS)
                try:
                    late = msgspec.structs.replace(request, priority=PRIORITY, arrival=time.time())
                    return self._follow(request.request_id, await self._inner.submit(late))
                except EngineOverloaded as error:
                    await asyncio.sleep(error.retry_after)
        except BaseException:
            self._leave(request.request_id)
            raise

    async def abort(self, request_id: str) -> None:
        try:
            await self._inner.abort(request_id)
        finally:
            self._leave(request_id)

    async def _follow(
        self, request_id: str, outputs: AsyncIterator[RequestOutput]
    ) -> AsyncGenerator[RequestOutput, None]:
        try:
            async for output in outputs:
                if output.finish_reason is not None:
                    self._leave(request_id)
                yield output
        finally:
            self._leave(request_id)

    def _leave(self, request_id: str) -> None:
        """Once a request, however often it is said: an ended one is aborted too, and some are never read."""
        if request_id in self._holders:
            self._holders.remove(request_id)
            self._places.release()

    def _hear(self, group: int, stats: EngineStats) -> None:
        self._waiting[group] = self._clock(), stats.waiting

    def _crowded(self) -> bool:
        now = self._clock()
        return any(waiting and now - heard < _STALE_SECONDS for heard, waiting in self._waiting.values())
