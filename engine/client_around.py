"""An `EngineClient` around another one, for those that change how work goes in and leave the rest as it is."""

from __future__ import annotations

from collections.abc import Callable

from .client import EngineClient
from .messages import EngineStats, RankReport


class ClientAround:
    """All of an `EngineClient` but `submit` and `abort`, handed on to `inner`."""

    def __init__(self, inner: EngineClient) -> None:
        self._inner = inner

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self) -> None:
        await self._inner.stop()

    @property
    def dead(self) -> str | None:
        return self._inner.dead

    @property
    def ready(self) -> bool:
        return self._inner.ready

    @property
    def max_model_len(self) -> int:
        return self._inner.max_model_len

    def on_stats(self, listener: Callable[[int, EngineStats], None]) -> None:
        self._inner.on_stats(listener)

    def on_report(self, listener: Callable[[RankReport], None]) -> None:
        self._inner.on_report(listener)
