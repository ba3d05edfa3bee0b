"""Which request runs next: by weight, priority and deadline, whatever else happens."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from pathlib import Path

import pytest

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.server.http.errors import ApiError
from yardmaster.tests.server.fair.yard import TWO, Yard, run, settled


def test_only_what_can_run_is_in_the_engine_and_keys_take_turns(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO)
        for number in range(4):
            await yard.submit("a", str(number))
        await yard.submit("b", "0")
        await yard.submit("b", "1")
        assert yard.order == ["a-0", "a-1"]
        a, b = yard.keys.tenants.values()
        assert (a.running, a.waiting, b.running, b.waiting) == (2, 2, 0, 2)
        for finished in ("a-0", "a-1", "b-0", "a-2", "b-1", "a-3"):
            assert finished in yard.engine.running
            await yard.give(finished, 10, "length")
        assert yard.order == ["a-0", "a-1", "b-0", "a-2", "b-1", "a-3"]
        assert set(yard.ends.values()) == {"length 10"}
        assert (a.prompt_tokens, a.generation_tokens, b.prompt_tokens) == (40, 40, 20)
        yard.assert_idle()

    run(go)


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 8)])
def test_tokens_are_shared_by_weight_however_many_each_sends(tmp_path: Path, weights: tuple[int, int]) -> None:
    async def go() -> None:
        rng = random.Random(1)
        yard = Yard(tmp_path, {"a": f"weight: {weights[0]}", "b": f"weight: {weights[1]}"}, max_waiting=10_000)
        for number in range(1500):  # a floods with ten times as many, and says four times what it takes
            await yard.submit("a", str(number), rng.randrange(1, 50), 400)
            if number < 700:
                await yard.submit("b", str(number), rng.randrange(1, 200), 100)
        served: dict[str, int] = defaultdict(int)
        for _ in range(1000):
            request_id = rng.choice(sorted(yard.engine.running))
            used = 100
            served[request_id[0]] += used + len(
                next(each for each in yard.engine.submitted if each.request_id == request_id).prompt_token_ids
            )
            yard.engine.give(request_id, used, "stop")
            await settled()
            if not all(tenant.waiting for tenant in yard.keys.tenants.values()):
                break
        assert min(served.values()) > 5000
        assert served["a"] / served["b"] == pytest.approx(weights[0] / weights[1], rel=0.03)
        await yard.client.stop()
        await settled()
        yard.assert_idle()

    run(go)


def test_priority_and_deadline_order_a_keys_own_alone(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, {"a": "priority: -5", "b": "weight: 1", "c": "priority: 4"}, max_running=1)
        await yard.submit("b", "first")
        for number, priority, timeout in (
            ("late", 3, None), ("plain", 0, None), ("due50", 0, 50.0), ("due20", 0, 20.0), ("best", -5, None),
        ):  # fmt: skip
            await yard.submit("a", number, priority=priority, timeout=timeout)
        await yard.submit("b", "second")
        with pytest.raises(ApiError, match="-5 is the best"):
            await yard.submit("a", "x", priority=-6)
        with pytest.raises(ApiError, match="0 is the best") as refused:
            await yard.submit("b", "x", priority=-1)
        assert (refused.value.status, refused.value.param) == (400, "priority")
        with pytest.raises(ApiError, match="4 is the best"):
            await yard.submit("c", "x", priority=3)
        await yard.submit("c", "7", priority=7)
        await yard.submit("c", "silent")
        assert yard.client._live["c-silent"].order[0] == 4
        while yard.engine.running:
            await yard.give(next(iter(yard.engine.running)), 1, "stop")
        a = [each for each in yard.order if each[0] == "a"]
        assert a == ["a-best", "a-due20", "a-due50", "a-plain", "a-late"]
        assert yard.order.index("b-second") <= 4  # however good a's priorities are
        assert yard.order.index("c-silent") < yard.order.index("c-7")
        assert {each.priority for each in yard.engine.submitted} == {0}
        yard.assert_idle()

    run(go)


def test_who_waits_past_his_deadline_is_told_and_not_run(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, TWO, max_running=1)
        await yard.submit("a", "long")
        await yard.submit("b", "quick", timeout=0.03)  # the loop's own timer
        await yard.submit("b", "passed", timeout=1000)
        await yard.submit("b", "in-time", timeout=3000)
        await asyncio.sleep(0.06)
        assert yard.ends == {"b-quick": "deadline_exceeded"}
        yard.now += 2000
        await yard.give("a-long", 5, "stop")
        assert yard.ends["b-passed"] == "deadline_exceeded"
        assert yard.order == ["a-long", "b-in-time"]
        with pytest.raises(ApiError) as refused:
            await yard.submit("b", "over", timeout=-1)
        assert refused.value.status == 504
        assert refused.value.code == "deadline_exceeded"
        assert yard.keys.tenants["b"].rejected["deadline"] == 3
        yard.now += 5000  # once it runs it may end
        await yard.give("b-in-time", 5, "stop")
        assert yard.ends["b-in-time"] == "stop 5"
        yard.assert_idle()

    run(go)


def test_choices_of_one_request_are_one_request(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, {"a": "tokens_per_minute: 100, requests_per_minute: 2, max_concurrent: 1"}, max_running=1)
        a = yard.keys.tenants["a"]
        with yard.caller("a") as caller:
            for number in range(3):
                await yard.enter(f"a-{number}", 10, 20)
            assert caller.outstanding == 90
            with pytest.raises(ApiError, match="asks for 120"):
                await yard.enter("a-3", 10, 20)
            with pytest.raises(ApiError, match="1 requests at once") as refused:
                a.enter(None)
            assert (refused.value.status, refused.value.type, refused.value.headers["retry-after"]) == (
                429, "requests", "1",
            )  # fmt: skip
        assert a.concurrent == 1  # the answers go on without the caller
        with pytest.raises(ApiError, match="at once"):
            a.enter(None)
        for number in range(3):
            await yard.give(f"a-{number}", 1, "stop")
        assert (a.concurrent, a.remaining_requests, a.requests) == (0, 1, 1)
        with yard.caller("a"):
            pass
        with pytest.raises(ApiError, match="2 requests a minute") as refused:
            a.enter(None)
        assert refused.value.headers["retry-after"] == "30"
        assert a.rejected == {"requests": 1, "concurrency": 2, "tokens": 1}
        yard.assert_idle()

    run(go)


def test_one_request_may_run_many_sequences_one_after_another(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, {"a": "tokens_per_minute: 100"})
        with yard.caller("a") as caller:
            for number in range(4):
                await yard.enter(f"a-{number}", 10, 50)
                assert caller.outstanding == 60
                await yard.give(f"a-{number}", 1, "stop")
            with pytest.raises(ApiError, match=r"Try again in 2\.4s"):  # 44 of 100 are used: later it can
                await yard.enter("a-4", 10, 50)
        yard.assert_idle()

    run(go)


def test_reading_the_file_again(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, {"a": "tokens_per_minute: 1000, weight: 2", "b": "weight: 1"}, max_running=1)
        a, b = yard.keys.tenants.values()
        assert (yard.keys.find(b"key-of-a"), yard.keys.find(b"key-of-b")) == (a, b)
        assert yard.keys.find(b"key-of-c") is yard.keys.find(b"") is None
        await yard.submit("a", "0", 100, 100)
        await yard.submit("b", "0")
        yard.write({"a": "tokens_per_minute: 500, weight: 5, max_concurrent: 7", "c": "admin: true"})
        assert not yard.keys.has_admin
        assert await yard.keys.reload() == 2
        assert yard.keys.has_admin
        assert yard.keys.total_weight == 6
        assert yard.keys.tenants["a"] is a
        assert (a.remaining_tokens, a.flow.weight, a.spec.max_concurrent) == (300, 5, 7)
        assert yard.keys.find(b"key-of-b") is None
        assert yard.keys.everyone == [a, yard.keys.tenants["c"], b, yard.keys.internal]
        for broken in ("keys: [", "keys: []", "keys: [{name: a}]"):
            yard.file.write_text(broken)
            with pytest.raises(ValueError, match=r"keys\.yaml"):
                await yard.keys.reload()
        yard.file.unlink()
        with pytest.raises(ValueError, match="does not exist"):
            await yard.keys.reload()
        assert yard.keys.find(b"key-of-a") is a
        yard.write({"b": "weight: 3", "a": "weight: 1"})  # b comes back while its request still waits
        await yard.keys.reload()
        assert yard.keys.tenants["b"] is b
        assert a.remaining_tokens is None
        for request_id in ("a-0", "b-0"):
            await yard.give(request_id, 1, "stop")
        yard.write({"a": "weight: 1"})
        await yard.keys.reload()
        assert yard.keys.everyone == [a, yard.keys.internal]
        yard.assert_idle()

    run(go)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_everyone_gets_an_end_and_the_sums_are_right(tmp_path: Path, seed: int) -> None:
    async def go() -> None:
        rng = random.Random(seed)
        keys = {name: f"weight: {rng.choice((0.1, 1, 5))}, tokens_per_minute: 1000000000" for name in "abcd"}
        yard = Yard(
            tmp_path,
            keys,
            max_running=rng.randrange(1, 9),
            max_waiting=rng.randrange(1, 40),
            max_starting=rng.choice((20, 200, 10**6)),
            step_tokens=rng.choice((10, 1000)),
        )
        accepted: set[str] = set()
        died = False
        for number in range(400):
            act = rng.random()
            if act < 0.45:
                name = rng.choice("aaabcd")
                prompt, answer = rng.randrange(1, 60), rng.choice((1, 50, 9_999))
                answer = min(answer, yard.engine.max_model_len - prompt)
                timeout = rng.choice((None, None, 0.001, 0.005, 100.0))
                try:
                    await yard.submit(name, str(number), prompt, answer, rng.choice((0, 0, 1, 5)), timeout)
                    accepted.add(f"{name}-{number}")
                except (EngineOverloaded, EngineDead):
                    pass
            elif act < 0.8 and yard.engine.running:
                request_id = rng.choice(list(yard.engine.running))
                await yard.give(request_id, rng.choice((0, 1, 7, 2000)), rng.choice((None, None, "stop", "length")))
            elif act < 0.88 and accepted:
                await yard.client.abort(rng.choice(sorted(accepted)))
            elif act < 0.91 and accepted:  # as Generation does when a client leaves
                request_id = rng.choice(sorted(accepted))
                if not yard.readers[request_id].done():
                    yard.readers[request_id].cancel()
                    await asyncio.gather(yard.readers[request_id], return_exceptions=True)
                    await yard.client.abort(request_id)
                    yard.ends[request_id] = "cancelled"
            elif act < 0.93:
                yard.engine.full = rng.randrange(3)
            elif act < 0.95:
                await asyncio.sleep(0.004)
            elif act < 0.955:
                yard.engine.full = 0
                yard.client._resume()
            assert yard.client._running <= yard.client._max_running
            assert len(yard.client._queue) <= yard.client._queue.limit
        if rng.random() < 0.3:
            died = True
            yard.engine.die("gone")
            yard.client._resume()
        yard.engine.full = 0
        yard.client._resume()
        await settled()
        while yard.engine.running:
            await yard.give(rng.choice(list(yard.engine.running)), 1, "stop")
        await asyncio.sleep(0.01)
        assert set(yard.ends) == accepted
        assert died or "dead" not in yard.ends.values()
        yard.assert_idle()
        for tenant in yard.keys.tenants.values():
            assert 10**9 - tenant.remaining_tokens == tenant.prompt_tokens + tenant.generation_tokens

    run(go)
