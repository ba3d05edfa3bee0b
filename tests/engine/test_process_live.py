from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.engine.live import LiveRequests
from yardmaster.engine.messages import EngineStats, Outputs, RequestOutput, Submit, TokenLogprob
from yardmaster.engine.sampling_params import SamplingParams


def stats(waiting: int = 0) -> EngineStats:
    return EngineStats(
        running=0, waiting=waiting, kv_usage=0.0, preemptions=0, steps=0, prompt_tokens=0, generation_tokens=0
    )


def submit(name: str, tokens: int = 3, **params: int) -> Submit:
    return Submit(request_id=name, prompt_token_ids=[1] * tokens, params=SamplingParams(**params))


def send(live: LiveRequests, group: int, *outputs: RequestOutput, waiting: int = 0) -> None:
    live.deliver(Outputs(group, list(outputs), stats(waiting)))


def out(name: str, *tokens: int, end: bool = False, **fields: object) -> RequestOutput:
    reason = "length" if end else None
    return RequestOutput(request_id=name, token_ids=list(tokens), finish_reason=reason, **fields)  # type: ignore[arg-type]


def never() -> None:
    raise AssertionError("closed")


def admit(live: LiveRequests, request: Submit, on_close: Callable[[], None] = never) -> int:
    return live.admit(request, on_close)[0]


def test_the_least_loaded_group_gets_the_request() -> None:
    live = LiveRequests(3, 8, 8)
    assert admit(live, submit("long", 100)) == 0
    assert admit(live, submit("short", 10)) == 1
    assert [admit(live, submit(f"s{i}", 3)) for i in range(3)] == [2, 2, 2]  # 4, 8, 12 tokens against 11
    assert admit(live, submit("next", 1)) == 1
    assert live.idle_groups() == []
    send(live, 0, out("long", 5, end=True))
    assert live.idle_groups() == [0]
    assert admit(live, submit("now")) == 0


def test_generated_tokens_count_as_load() -> None:
    live = LiveRequests(2, 8, 8)
    assert admit(live, submit("a", 10)) == 0
    assert admit(live, submit("b", 12)) == 1
    send(live, 0, out("a", *range(5)))
    assert admit(live, submit("c")) == 1


def test_load_returns_to_nothing_under_random_traffic() -> None:
    rng = random.Random()
    live = LiveRequests(3, 4, 5)
    where: dict[str, int] = {}
    refused = 0
    for turn in range(2000):
        action = rng.random()
        if action < 0.45:
            try:
                where[f"r{turn}"] = admit(live, submit(f"r{turn}", rng.randint(1, 50)))
            except EngineOverloaded:
                refused += 1
                assert len(live) == len(where) >= 3 * (4 + 5)
        elif where:
            name = rng.choice(list(where))
            if action < 0.7:
                send(live, where[name], out(name, *range(rng.randint(0, 9))))
            elif action < 0.9:
                send(live, where.pop(name), out(name, 1, end=True))
            else:
                assert live.abort(name) == where.pop(name)
                assert live.abort(name) is None
        assert len(live) == len(where)
    assert refused
    for name, group in where.items():
        send(live, group, out(name, end=True))
    assert live.idle_groups() == [0, 1, 2]
    assert [group.tokens for group in live._groups] == [0, 0, 0]


def test_the_queue_has_a_limit_and_an_estimate() -> None:
    now = [100.0]
    live = LiveRequests(1, 2, 1, clock=lambda: now[0])
    for name in ("a", "b", "c"):
        admit(live, submit(name))
    with pytest.raises(EngineOverloaded) as caught:
        admit(live, submit("d"))
    assert caught.value.retry_after == 1
    for name in ("a", "b"):  # one end in 8 seconds
        now[0] += 8
        send(live, 0, out(name, 1, end=True))
    for name in ("e", "f"):
        admit(live, submit(name))
    with pytest.raises(EngineOverloaded) as caught:
        admit(live, submit("g"))
    assert 4 <= caught.value.retry_after <= 8


def test_an_engine_short_of_pages_queues_below_its_batch_limit() -> None:
    live = LiveRequests(2, 100, 3)
    admit(live, submit("a", 50))
    send(live, 0, waiting=3)
    assert admit(live, submit("b", 60)) == 1
    assert admit(live, submit("c", 1)) == 1  # group 0 has fewer tokens, but a full queue
    send(live, 1, waiting=3)
    with pytest.raises(EngineOverloaded):
        admit(live, submit("d"))
    send(live, 0, waiting=0)
    assert admit(live, submit("d")) == 0


def test_an_id_lives_once() -> None:
    live = LiveRequests(1, 8, 8)
    admit(live, submit("a"))
    with pytest.raises(ValueError, match="'a'"):
        admit(live, submit("a"))
    live.abort("a")
    admit(live, submit("a"))


def test_seeds_are_drawn_once_and_follow_the_engines() -> None:
    def drawn(seed: int) -> list[int | None]:
        live = LiveRequests(1, 8, 8, seed=seed)
        return [live.admit(submit(name), never)[1].params.seed for name in "abc"]

    assert len(set(drawn(0))) == 3
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert LiveRequests(1, 8, 8).admit(submit("a", seed=7), never)[1].params.seed == 7


def test_a_slow_reader_gets_everything_at_once() -> None:
    async def main() -> None:
        live = LiveRequests(1, 8, 8)
        stream = live.admit(submit("a"), never)[2]
        logprobs = [TokenLogprob(token, -0.5, 1) for token in range(4)]
        send(live, 0, out("a", 0, logprobs=[logprobs[0]], prompt_logprobs=[None], queue_seconds=0.25))
        send(live, 0, out("a", 1, 2, logprobs=logprobs[1:3]), out("other", 9))
        send(live, 0, out("a", 3, end=True, logprobs=[logprobs[3]]))
        outputs = [output async for output in stream]
        assert len(outputs) == 1
        assert outputs[0].token_ids == [0, 1, 2, 3]
        assert outputs[0].logprobs == logprobs
        assert outputs[0].prompt_logprobs == [None]
        assert outputs[0].queue_seconds == 0.25
        assert outputs[0].finish_reason == "length"

    asyncio.run(main())


def test_outputs_of_another_group_or_after_the_end_are_dropped() -> None:
    async def main() -> None:
        live = LiveRequests(2, 8, 8)
        stream = live.admit(submit("a"), never)[2]
        send(live, 1, out("a", 666))
        send(live, 0, out("a", 1, end=True))
        send(live, 0, out("a", 2))
        assert [output.token_ids async for output in stream] == [[1]]

    asyncio.run(main())


def test_death_comes_after_what_was_there_and_bars_the_door() -> None:
    async def main() -> None:
        live = LiveRequests(1, 8, 8)
        first, second = (live.admit(submit(name), never)[2] for name in "ab")
        waiting = asyncio.create_task(anext(second))
        await asyncio.sleep(0)
        send(live, 0, out("a", 1))
        live.fail_all("rank 3 died")
        assert (await anext(first)).token_ids == [1]
        for reading in (anext(first), waiting):
            with pytest.raises(EngineDead, match="rank 3 died"):
                await reading
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        with pytest.raises(EngineDead, match="rank 3 died"):
            admit(live, submit("c"))
        assert len(live) == 0

    asyncio.run(main())


def test_closing_early_tells_once_and_closing_late_not_at_all() -> None:
    async def main() -> None:
        live = LiveRequests(1, 8, 8)
        closed: list[str] = []
        streams = {name: live.admit(submit(name), lambda name=name: closed.append(name))[2] for name in "ab"}
        waiting = asyncio.create_task(anext(streams["a"]))
        await asyncio.sleep(0)
        await streams["a"].aclose()
        await streams["a"].aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
        send(live, 0, out("b", 1, end=True))
        assert [output.token_ids async for output in streams["b"]] == [[1]]
        await streams["b"].aclose()
        assert closed == ["a"]

    asyncio.run(main())


def test_an_abort_ends_the_stream() -> None:
    async def main() -> None:
        live = LiveRequests(1, 8, 8)
        stream = live.admit(submit("a"), never)[2]
        send(live, 0, out("a", 4))
        assert live.abort("a") == 0
        outputs = [output async for output in stream]
        assert [(output.token_ids, output.finish_reason) for output in outputs] == [([4], "abort")]

    asyncio.run(main())
