"""/metrics of a server with several front ends: what the hub knows itself, and the sums of what they count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import count

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest

from ... import __version__
from ...engine.client import EngineClient
from ..fair.keyring import Keyring
from ..fair.metrics import KeyCollector
from ..metrics import PREFIX, EngineCollector
from .counts import Totals
from .messages import Count, Family

_PATIENCE = 2.0  # seconds for a front end to say what it has counted; after that, what it said last holds


class Board:
    """`up` says how many front ends take connections. One event loop's alone."""

    def __init__(self, model: str, client: EngineClient, keys: Keyring | None, up: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._totals = Totals()
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}
        engine = EngineCollector(model, __version__)
        engine.watch(client)
        registry.register(engine)
        gauge = Gauge(PREFIX + "api_servers", "Front-end processes that take connections.", registry=registry)
        gauge.set_function(up)
        self.restarts = Counter(
            PREFIX + "api_server_restarts_total", "Front-end processes that were started anew.", registry=registry
        )
        registry.register(self._totals)
        if keys is not None:
            registry.register(KeyCollector(keys))

    def take(self, front: int, number: int, families: list[Family]) -> None:
        """What a front end has counted, as an answer to question `number` if that is not 0."""
        self._totals.take(front, families)
        asked = self._asked.pop(number, None)
        if asked is not None and not asked.done():
            asked.set_result(None)

    def bury(self, front: int) -> None:
        self._totals.bury(front)

    async def scrape(self, fronts: Iterable[Callable[[Count], None]]) -> bytes:
        """Ask all front ends, each through its `send`, and add up. Prometheus' text format 0.0.4."""
        mine: dict[int, asyncio.Future[None]] = {}
        for send in fronts:
            number = next(self._numbers)
            self._asked[number] = mine[number] = asyncio.get_running_loop().create_future()
            send(Count(number))
        if mine:
            await asyncio.wait(mine.values(), timeout=_PATIENCE)
        for number in mine:
            self._asked.pop(number, None)
        return generate_latest(self._registry)
