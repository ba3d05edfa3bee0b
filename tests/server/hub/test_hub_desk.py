"""Both ends of the wire between the hub and a front end: what goes there comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.engine.live import Stream
from yardmaster.engine.messages import RequestOutput
from yardmaster.server.http.errors import ApiError
from yardmaster.server.hub import desk as desk_module
from yardmaster.server.hub.counts import Totals, families
from yardmaster.server.hub.messages import Abort, Answer, Refusal, Sequence, from_door, to_door
from yardmaster.server.hub.wire import Wire
from yardmaster.tests.server.hub.hall import Engine, Pair, request, run, settle


def test_sequences_go_there_and_their_outputs_come_back() -> None:
    async def test() -> None:
        async with Pair(Engine()) as pair:
            streams = {name: await pair.client.submit(request(name)) for name in "abc"}
            assert pair.engine.submitted == [request(name) for name in "abc"]
            for place in range(5):
                for name in streams:
                    pair.engine.give(name, [place, ord(name)], "stop" if place == 4 else None)
            for name, stream in streams.items():
                tokens = [token async for output in stream for token in output.token_ids]
                assert tokens == [each for place in range(5) for each in (place, ord(name))]
            assert not pair.client._streams
            assert not pair.desk._live
            await pair.client.submit(request("twice"))
            with pytest.raises(ValueError, match="already running"):
                await pair.client.submit(request("twice"))
            await pair.client.abort("nobody")

    run(test)


def test_refusals_come_back_as_what_they_were() -> None:
    errors: list[Exception] = [
        EngineOverloaded("the queue is full", 7),
        EngineDead("rank 3 died"),
        ApiError(429, "no", param="p", code="c", type="requests", headers={"retry-after": "3"}),
        ValueError("twice"),
    ]

    async def test() -> None:
        async with Pair(Engine()) as pair:
            for error in errors:
                pair.engine.refuse = error
                with pytest.raises(type(error)) as refused:
                    await pair.client.submit(request("x"))
                assert vars(refused.value) == vars(error)
                assert str(refused.value) == str(error)
            pair.engine.refuse = KeyError("a bug, with something private in it")
            with pytest.raises(ApiError) as hidden:
                await pair.client.submit(request("x"))
            assert hidden.value.status == 500
            assert "private" not in hidden.value.message
            pair.engine.refuse = None
            stream = await pair.client.submit(request("x"))
            pair.engine.give("x", [5])
            pair.engine.streams["x"].fail(ApiError(504, "too late"))
            assert (await anext(stream)).token_ids == [5]
            with pytest.raises(ApiError, match="too late"):
                await anext(stream)
            stream = await pair.client.submit(request("y"))
            pair.engine.streams["y"].fail("rank 3 died")
            with pytest.raises(EngineDead, match="rank 3 died"):
                await anext(stream)

    run(test)


def test_a_stream_that_is_poured_has_what_came_before() -> None:
    async def test() -> None:
        for early in range(4):
            stream, got = Stream(lambda: None), []
            outputs = [RequestOutput(request_id="x", token_ids=[place]) for place in range(3)]
            for output in outputs[:early]:
                stream.push(output)
            if early == 3:
                stream.fail("rank 3 died")
            stream.pour(got.append)
            for output in outputs[early:]:
                stream.push(output)
            if early < 3:
                stream.fail("rank 3 died")
            assert got[:3] == outputs
            assert isinstance(got[3], EngineDead)
            assert len(got) == 4

    run(test)


def test_outputs_for_one_that_is_behind_are_gathered_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "_MERGE_AT", 64)

    async def test() -> None:
        async with Pair(Engine()) as pair:
            streams = [await pair.client.submit(request(name)) for name in "ab"]
            assert pair.wire._transport is not None
            pair.wire._transport.pause_reading()
            count, most = 60_000, 0
            for place in range(count):
                pair.engine.give("ab"[place % 2], [place])
                if place % 20 == 0:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                most = max(most, len(pair.desk._pending))
            assert pair.desk.wire.full
            assert most <= 64 + 20
            pair.engine.give("a", [], "stop")
            pair.engine.streams["b"].fail("rank 3 died")
            await asyncio.sleep(0.01)
            pair.wire._transport.resume_reading()
            for place, stream in enumerate(streams):
                tokens: list[int] = []
                with pytest.raises(EngineDead) if place else contextlib.nullcontext():
                    async for output in stream:
                        tokens += output.token_ids
                assert tokens == list(range(place, count, 2))
            assert len(pair.news) < count / 20

    run(test)


def test_frames_come_whole_however_they_are_cut() -> None:
    async def test() -> None:
        messages = [Abort("x" * size) for size in (0, 1, 255, 70_000, 3)]
        heard: list[Any] = []
        wire: Wire[Any] = Wire(from_door, heard.append, lambda: None)
        data = b"".join(
            len(body).to_bytes(4, "little") + body for body in map(msgspec.msgpack.Encoder().encode, messages)
        )
        for _ in range(20):
            heard.clear()
            at = 0
            while at < len(data):
                size = random.choice((1, 2, 3, 5, 1000, 66_000))
                wire.data_received(data[at : at + size])
                at += size
            assert heard == messages

    run(test)


def test_a_message_that_cannot_be_read_ends_the_wire_and_a_bug_does_not(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        heard: list[Any] = []
        lost = asyncio.Event()

        def hear(message: Any) -> None:
            heard.append(message)
            if len(heard) == 1:
                raise ValueError("a bug")

        ours, theirs = socket.socketpair()
        near: Wire[Any] = Wire(from_door, hear, lost.set)
        far: Wire[Any] = Wire(to_door, lambda message: None, lambda: None)
        await near.open(ours)
        await far.open(theirs)
        far.send(Abort("1"))
        far.send(Abort("2"))
        await settle(lambda: len(heard) == 2)
        assert not lost.is_set()
        far.send(Answer(1))  # none that a front end may send
        await asyncio.wait_for(lost.wait(), 5)
        assert len(heard) == 2
        near.send(Answer(2))
        await far.close()

    run(test)
    assert "handling a Abort failed" in caplog.text


def test_refusals_and_sequences_survive_the_wire() -> None:
    sequence = Sequence(3, request("x"), 7)
    assert from_door.decode(msgspec.msgpack.encode(sequence)) == sequence
    assert Refusal.of(KeyError()) is None


def test_sums_never_fall_and_births_are_the_earliest() -> None:
    def front(times: int, value: float) -> CollectorRegistry:
        registry = CollectorRegistry()
        counter = Counter("c_total", "of c", ["kind"], registry=registry)
        histogram = Histogram("h", "of h", buckets=(1, 2), registry=registry)
        for _ in range(times):
            counter.labels("a").inc()
            histogram.observe(value)
        counter.labels(f"only-{times}").inc(0.5)
        return registry

    def text(registry: CollectorRegistry) -> dict[str, float]:
        lines = generate_latest(registry).decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    totals, whole = Totals(), CollectorRegistry()
    whole.register(totals)
    fronts = [front(3, 0.5), front(4, 1.5)]
    for number, registry in enumerate(fronts):
        totals.take(number, [])
        totals.take(number, families(registry))
    one, two, both = text(fronts[0]), text(fronts[1]), text(whole)
    assert set(both) == set(one) | set(two)
    for name, value in both.items():
        parts = [each[name] for each in (one, two) if name in each]
        assert value == (min(parts) if "_created" in name else pytest.approx(sum(parts))), name
    totals.bury(0)
    totals.bury(0)
    assert text(whole) == both
    totals.take(2, families(front(1, 5.0)))
    assert text(whole)['c_total{kind="a"}'] == 8
    assert "# TYPE c_total counter" in generate_latest(whole).decode()
