"""Where there is no room: a bounded queue, a full cache, pauses, a dead engine, a drain."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.messages import Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.scheduler import SchedulerConfig
from yardmaster.server.fair.client import FairClient
from yardmaster.server.launch import layout
from yardmaster.tests.server.fair.yard import TWO, Engine, Yard, run, settled


def test_the_queue_is_bounded_and_light_keys_still_find_a_place(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=1, max_waiting=4)
        for number in range(4):
            await yard.submit("a", str(number))
        with pytest.raises(EngineOverloaded) as refused:
            await yard.submit("a", "4")
        assert refused.value.retry_after >= 1
        await yard.submit("b", "0")
        with pytest.raises(EngineOverloaded):
            await yard.submit("b", "1")
        assert [tenant.rejected["queue"] for tenant in yard.keys.tenants.values()] == [1, 1]
        for _ in range(5):
            yard.now += 20
            await yard.give(next(iter(yard.engine.running)), 1, "stop")
        assert len(yard.ends) == 5
        assert yard.client._retry_after() == 16  # five ends in 80 s
        yard.assert_idle()

    run(go)


def test_a_full_cache_keeps_the_rest_waiting_here(tmp_path: Path) -> None:
    """The engine has places but starts nothing: only so many prompt tokens go there."""

    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=100, max_starting=50, step_tokens=25)
        for number in range(4):
            await yard.submit("a", str(number), prompt=20)
        assert yard.order == ["a-0", "a-1", "a-2"]
        await yard.submit("b", "long", prompt=900)
        await yard.give("a-0", 1)
        assert len(yard.order) == 4
        await yard.give("a-1", 1)
        assert sorted(yard.order[3:]) == ["a-3", "b-long"]
        assert yard.client._starting == 20 + 20 + 25
        for request_id in yard.order:
            await yard.give(request_id, 1, "stop")
        yard.assert_idle()

    run(go)


def test_an_engine_without_a_place_after_all_makes_it_wait(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=3)
        await yard.submit("a", "0")
        yard.engine.full = 2
        await yard.submit("a", "1")
        await yard.submit("b", "0")
        a, b = yard.keys.tenants.values()
        assert yard.order == ["a-0"]
        assert (a.running, a.waiting, b.running, b.waiting, yard.client._running) == (1, 1, 0, 1, 1)
        await yard.give("a-0", 1, "stop")  # which lets both in again, and the engine has place for one
        assert len(yard.order) == 2
        assert (a.waiting + b.waiting, yard.client._running) == (1, 1)
        await yard.give(yard.order[1], 1, "stop")
        assert set(yard.order) == {"a-0", "a-1", "b-0"}
        await yard.give(yard.order[2], 1, "stop")
        assert set(yard.ends.values()) == {"stop 1"}
        yard.assert_idle()

    run(go)


def test_a_pause_ends_by_itself(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO)

        refusals = [EngineOverloaded("full", retry_after=0)]

        async def full_once(request: Submit) -> Any:
            if refusals:
                raise refusals.pop()
            return await Engine.submit(yard.engine, request)

        yard.engine.submit = full_once  # type: ignore[method-assign]
        await yard.submit("a", "0")
        await asyncio.sleep(0.02)
        await yard.give("a-0", 1, "stop")
        assert yard.ends == {"a-0": "stop 1"}
        assert yard.keys.tenants["a"].flow.tag == 11  # paid for once
        yard.assert_idle()

    run(go)


def test_when_the_engine_dies_everyone_is_told(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=1)
        for number in range(60):
            await yard.submit("a", str(number))
        await yard.submit("b", "0")
        yard.engine.die("rank 1 was killed")
        await settled()
        assert len(yard.ends) == 61
        assert set(yard.ends.values()) == {"dead"}
        with pytest.raises(EngineDead, match="rank 1"):
            await yard.submit("b", "1")
        assert yard.client.dead == "rank 1 was killed"
        yard.assert_idle()

    run(go)


def test_thousands_whose_deadline_has_passed_go_at_once(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=1, max_waiting=10_000)
        await yard.submit("a", "0")
        for number in range(3000):
            with yard.caller("b", 500.0):
                params = SamplingParams(max_tokens=1, seed=0)
                await yard.client.submit(Submit(request_id=f"b-{number}", prompt_token_ids=[1], params=params))
        yard.now += 1000
        await yard.give("a-0", 1, "stop")
        assert yard.keys.tenants["b"].rejected["deadline"] == 3000
        assert yard.order == ["a-0"]
        yard.assert_idle()

    run(go)


def test_aborts_at_every_moment(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=1)
        entering = asyncio.Event()

        async def slow(request: Submit) -> Any:
            entering.set()
            await asyncio.sleep(0.01)
            return await Engine.submit(yard.engine, request)

        yard.engine.submit = slow  # type: ignore[method-assign]
        await yard.submit("a", "0")
        await entering.wait()
        await yard.client.abort("a-0")  # while it is being handed over
        await asyncio.sleep(0.03)
        assert yard.ends == {"a-0": "abort 0"}
        assert yard.engine.aborted == ["a-0", "a-0"]
        assert yard.engine.running == {}
        stream = await yard.submit("a", "1")
        await asyncio.sleep(0.03)
        await stream.aclose()
        await stream.aclose()
        await settled()
        assert yard.ends["a-1"] == "abort 0"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await yard.client.abort("nobody")
        assert yard.engine.aborted[-1] == "nobody"
        with yard.caller("a"):  # let in, and never read
            request = Submit(request_id="x", prompt_token_ids=[1], params=SamplingParams(max_tokens=1, seed=0))
            await yard.client.submit(request)
            with pytest.raises(ValueError, match="already running"):
                await yard.client.submit(request)
        await yard.submit("b", "0")
        await yard.client.abort("x")
        await asyncio.sleep(0.03)
        await yard.give("b-0", 1, "stop")
        yard.assert_idle()

    run(go)


def test_the_servers_own_work_has_no_limits_but_stops_when_draining(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=1)
        for number in range(3):
            await yard.enter(f"own-{number}", 5, 5, priority=99)
        for number in range(2):
            await yard.submit("a", str(number))
        assert yard.order == ["own-0"]
        for request_id in ("own-0", "a-0", "a-1", "own-1", "own-2"):  # its own goes behind everybody's
            await yard.give(request_id, 5, "stop")
        assert [each.priority for each in yard.engine.submitted] == [99, 0, 0, 99, 99]
        assert yard.keys.internal.generation_tokens == 15
        yard.keys.draining = True
        with pytest.raises(EngineOverloaded) as refused:
            await yard.enter("own-3")
        assert refused.value.retry_after > 1
        await yard.submit("a", "2")  # the gate let it in before
        await yard.give("a-2", 1, "stop")
        yard.assert_idle()

    run(go)


def test_bounds_follow_the_engines(tmp_path: Path) -> None:
    limits = SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=512, max_model_len=1024, max_waiting=9)
    config = EngineConfig(model="-", scheduler=limits, parallel=layout(1, 2, None, None))
    yard = Yard(tmp_path, TWO)
    client = FairClient.of(config, yard.engine, yard.keys)  # type: ignore[arg-type]
    assert (client._max_running, client._queue.limit, client._max_starting) == (2 * (64 + 4), 18, 2048)
    assert client.ready
    assert client.max_model_len == yard.engine.max_model_len
