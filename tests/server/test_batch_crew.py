"""Batches side by side: what one of them has to wait for holds up no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from yardmaster.server.batch.background import behind
from yardmaster.server.batch.caller import Caller
from yardmaster.server.batch.config import BatchConfig
from yardmaster.server.batch.crew import Crew
from yardmaster.server.batch.lines import Line
from yardmaster.server.batch.results import Result
from yardmaster.server.batch.runner import Runner
from yardmaster.server.batch.store import Store
from yardmaster.server.fair.client import FairClient
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.batch_orders import order, upload

TEXT = "/v1/completions"
KEYS = """keys:
  - {name: alice, key: alices-key-1, tokens_per_minute: 60}
  - {name: bob, key: bobs-key-1}
"""


def lines(*numbers: int) -> Any:
    return iter([Line(number, str(number), TEXT, b"{}") for number in numbers])


class Kept:
    """Where results go. `refuse`: lines that have no answer yet."""

    def __init__(self, *refuse: int) -> None:
        self.refuse = set(refuse)
        self.asked: list[int] = []
        self.kept: list[int] = []

    async def answer(self, line: Line) -> Result | None:
        self.asked.append(line.number)
        await asyncio.sleep(0.002)
        return None if line.number in self.refuse else Result(line.number, True, b"")

    async def keep(self, results: Any) -> None:
        self.kept += [result.line for result in results]

    def work(self, crew: Crew, *numbers: int) -> asyncio.Task[None]:
        return asyncio.create_task(crew.work(lines(*numbers), self.answer, self.keep))


def run(test: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


async def until(true: Callable[[], Any]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_a_line_that_waits_holds_no_place() -> None:
    async def test() -> None:
        crew = Crew(2, retry=0.05)
        stuck, free = Kept(*range(10)), Kept()
        waiting = stuck.work(crew, *range(10))
        await until(lambda: len(stuck.asked) >= 2)
        await free.work(crew, *range(20))
        assert free.kept == list(range(20))
        assert len(set(stuck.asked)) == 2  # the rest of its file is still there
        stuck.refuse.clear()
        await waiting
        assert sorted(stuck.kept) == list(range(10))

    run(test)


def test_batches_take_turns() -> None:
    async def test() -> None:
        crew, order = Crew(1, retry=0.01), []
        first, second = Kept(), Kept()
        for name, kept in (("first", first), ("second", second)):

            async def answer(line: Line, name: str = name, kept: Kept = kept) -> Result | None:
                order.append(name)
                return await Kept.answer(kept, line)

            kept.answer = answer  # type: ignore[method-assign]
        await asyncio.gather(first.work(crew, *range(20)), second.work(crew, *range(20)))
        assert all({"first", "second"} == set(order[at : at + 3]) for at in range(30))

    run(test)


def test_what_fails_or_is_cancelled_gives_its_place_back() -> None:
    async def test() -> None:
        crew, stuck, broken = Crew(2, retry=30.0), Kept(*range(10)), Kept()

        async def fail(line: Line) -> Result | None:
            raise OSError(28, "No space left on device")

        broken.answer = fail  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space"):
            await broken.work(crew, *range(10))
        for moment in range(20):
            working = stuck.work(crew, *range(10))
            await asyncio.sleep(moment / 2000)
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
        assert crew._places._value == 2

    run(test)


def test_a_key_at_its_limit_stops_its_own_batches_alone(plain: Any, tmp_path: Path) -> None:
    """Alice's two are the oldest, there are no more places than they have, and both wait for her next minute."""
    (tmp_path / "keys.yaml").write_text(KEYS)

    async def test() -> None:
        keys = Keyring(tmp_path / "keys.yaml", clock=lambda: 0.0)
        client = FairClient(plain.engine, keys, max_running=8, max_waiting=100, max_starting=1000, step_tokens=100)
        service = behind(plain.service(), "test-model", 64)
        service.client._inner = client  # type: ignore[attr-defined]
        bounds = {"running_batches": 2, "max_running": 2, "poll": 0.01, "retry": 0.02}
        store = Store(BatchConfig(str(tmp_path / "batches"), **bounds))  # type: ignore[arg-type]
        for owner in ("name:alice", "name:alice", "name:bob"):
            ordered(store, owner, 8)
        runner = Runner(store, Caller(service, HttpConfig(("test-model",)), keys))
        running = asyncio.create_task(runner.run())
        while (await store.run(store.batches, "name:bob", 1, None))[0][0].status != "completed":
            await asyncio.sleep(0.01)
        hers, _ = await store.run(store.batches, "name:alice", 9, None)
        assert all(batch.active for batch in hers)
        assert sum(batch.completed for batch in hers) == 2  # half of her limit
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        store.close()

    run(test)


def ordered(store: Store, owner: str, count: int) -> None:
    """A batch of `count` lines of 15 tokens each."""
    rows = [
        {"custom_id": str(n), "method": "POST", "url": TEXT, "body": {"prompt": "abcdefghij", "max_tokens": 5}}
        for n in range(count)
    ]
    order(store, upload(store, b"".join(json.dumps(row).encode() + b"\n" for row in rows), owner), owner)
