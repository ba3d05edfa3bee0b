"""How the front end sees an engine: submit a sequence, read its outputs, abort it. Knows no tensors and no ranks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from .messages import EngineStats, RankReport, RequestOutput, Submit


class EngineDead(RuntimeError):
    """The engine is gone; the message says what ended it. HTTP: 503."""


class EngineOverloaded(RuntimeError):
    """The waiting queue is full. HTTP: 503 with Retry-After: `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineClient(Protocol):
    """One engine: all data-parallel groups behind one door."""

    async def start(self) -> None:
        """Wait until every rank is ready. Raises EngineDead with the reason when one fails."""

    async def submit(self, request: Submit) -> AsyncIterator[RequestOutput]:
        """Take a request in; iterate its outputs until one carries `finish_reason`.

        Raises EngineOverloaded before anything is queued, EngineDead (here or while iterating) when the engine dies.
        Closing the iterator early aborts the request.
        """

    async def abort(self, request_id: str) -> None:
        """Free what the request holds, at once. An id that is not live is no error."""

    async def stop(self) -> None:
        """Shut the engine down."""

    @property
    def dead(self) -> str | None:
        """Why the engine is dead, or None while it lives."""

    @property
    def ready(self) -> bool: ...

    @property
    def max_model_len(self) -> int: ...

    def on_stats(self, listener: Callable[[int, EngineStats], None]) -> None:
        """Call `listener(group, stats)` after each step."""

    def on_report(self, listener: Callable[[RankReport], None]) -> None:
        """Call `listener(report)` at each rank's heartbeat."""
