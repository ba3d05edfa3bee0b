"""Both ends of the wire between the hub and a front end, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.engine.live import Stream
from yardmaster.engine.messages import RequestOutput, Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.fair.client import FairClient
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.fair.tenant import CALLER
from yardmaster.server.http.errors import ApiError
from yardmaster.server.hub import desk as desk_module
from yardmaster.server.hub.client import HUB_GONE, HubClient
from yardmaster.server.hub.counts import Totals, families
from yardmaster.server.hub.desk import Desk
from yardmaster.server.hub.handover import Handover, Hatch, receive
from yardmaster.server.hub.keys import DoorKeys
from yardmaster.server.hub.messages import Abort, Answer, EngineState, News, Refusal, Sequence, from_door, to_door
from yardmaster.server.hub.messages import Keys as KeysMessage
from yardmaster.server.hub.wire import Wire


class Engine:
    """An EngineClient whose outputs the test gives."""

    dead = None
    ready = True
    max_model_len = 512

    def __init__(self) -> None:
        self.refuse: Exception | None = None
        self.slow: asyncio.Event | None = None
        self.streams: dict[str, Stream] = {}
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []

    async def submit(self, request: Submit) -> Stream:
        if self.slow is not None:
            await self.slow.wait()
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append(request)
        self.streams[request.request_id] = stream = Stream(lambda: None)
        return stream

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        if (stream := self.streams.pop(request_id, None)) is not None:
            stream.push(RequestOutput(request_id=request_id, finish_reason="abort"))

    def give(self, request_id: str, tokens: list[int], finish: Any = None) -> None:
        self.streams[request_id].push(RequestOutput(request_id=request_id, token_ids=tokens, finish_reason=finish))

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def on_stats(self, listener: Any) -> None: ...

    def on_report(self, listener: Any) -> None: ...


class Hall:
    """What a desk needs of a hub."""

    def __init__(self, engine: Any, keys: Keyring | None) -> None:
        self.client = engine
        self.keys = keys


class Pair:
    """A desk and a front end's client over a real socket pair."""

    def __init__(self, engine: Engine, keys: Keyring | None = None) -> None:
        self.engine = engine
        self.desk = Desk(Hall(engine if keys is None else fair(engine, keys), keys), 1)  # type: ignore[arg-type]
        self.news: list[News] = []
        self.wire: Wire[Any] = Wire(to_door, self._hear, lambda: self.client.lose())
        self.client = HubClient(self.wire.send)
        self.keys = DoorKeys(self.client)

    async def __aenter__(self) -> Pair:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await self.desk.open(ours, EngineState(True, 512, None))
        await self.wire.open(theirs)
        if self.desk._hall.keys is not None:
            ring = self.desk._hall.keys
            self.desk.wire.send(KeysMessage([tenant.spec for tenant in ring.tenants.values()], False))
        await settle(lambda: self.client.ready and (self.desk._hall.keys is None or self.keys.tenants))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.wire.close()
        await self.desk.wire.close()
        await asyncio.wait_for(self.desk.lost.wait(), 5)
        await self.desk.settled()

    def _hear(self, message: Any) -> None:
        if isinstance(message, News):
            self.news.append(message)
        if isinstance(message, KeysMessage):
            self.keys.take(message)
        else:
            self.client.hear(message)


def fair(engine: Engine, keys: Keyring) -> FairClient:
    return FairClient(engine, keys, max_running=64, max_waiting=64, max_starting=4096, step_tokens=512)


async def settle(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())  # type: ignore[arg-type]


def request(name: str) -> Submit:
    return Submit(request_id=name, prompt_token_ids=[1, 2, 3], params=SamplingParams(max_tokens=8, seed=1))


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


def test_who_stops_reading_aborts_and_so_does_who_is_cancelled_before_it_is_taken() -> None:
    async def test() -> None:
        async with Pair(Engine()) as pair:
            stream = await pair.client.submit(request("a"))
            await stream.aclose()
            await settle(lambda: pair.engine.aborted == ["a"])
            stream = await pair.client.submit(request("b"))
            await pair.client.abort("b")
            assert (await anext(stream)).finish_reason == "abort"
            await settle(lambda: pair.engine.aborted == ["a", "b"])
            asking = asyncio.create_task(pair.client.submit(request("c")))
            await asyncio.sleep(0)
            asking.cancel()
            await settle(lambda: pair.engine.aborted == ["a", "b", "c"])
            await settle(lambda: not pair.desk._live)

    run(test)


def test_what_a_dead_front_end_leaves_is_cleared_away(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{name: one, key: key-number-one, max_concurrent: 3}]")

    async def test() -> None:
        keys = Keyring(file)
        engine = Engine()
        async with Pair(engine, keys) as pair:
            tenant = pair.keys.find(b"key-number-one")
            assert tenant is not None
            assert pair.keys.find(b"another") is None
            CALLER.set(await pair.keys.enter(tenant, None))
            streams = [await pair.client.submit(request(name)) for name in "ab"]
            await pair.keys.enter(tenant, None)
            assert keys.tenants["one"].concurrent == 2
            await settle(lambda: set(engine.streams) == {"a", "b"})
            engine.slow = asyncio.Event()
            late = asyncio.create_task(pair.client.submit(request("late")))
            await asyncio.sleep(0.02)
            pair.wire._transport.abort()  # type: ignore[union-attr]
            for stream in streams:
                with pytest.raises(EngineDead, match=HUB_GONE):
                    await anext(stream)
            await settle(late.done)
            late.exception()
            engine.slow.set()
            await pair.desk.settled()
            assert set(engine.aborted) >= {"a", "b"}
            await settle(lambda: not engine.streams)
            assert keys.tenants["one"].concurrent == 0
            assert keys.tenants["one"].running == 0

    run(test)


def test_what_the_engine_takes_after_a_front_end_s_death_is_given_back() -> None:
    async def test() -> None:
        engine = Engine()
        engine.slow = asyncio.Event()
        async with Pair(engine) as pair:
            late = asyncio.create_task(pair.client.submit(request("late")))
            await asyncio.sleep(0.02)
            pair.wire._transport.abort()  # type: ignore[union-attr]
            await settle(late.done)
            assert isinstance(late.exception(), EngineDead)
            engine.slow.set()
            await pair.desk.settled()
            assert engine.aborted == ["late"]
            assert not engine.streams

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


def test_nothing_runs_for_a_caller_who_is_not_there(tmp_path: Path) -> None:
    """It would run as the server's own work, past every limit."""
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{name: one, key: key-number-one, requests_per_minute: 2}]")

    async def test() -> None:
        keys = Keyring(file)
        async with Pair(Engine(), keys) as pair:
            tenant = pair.keys.find(b"key-number-one")
            assert tenant is not None
            caller = await pair.keys.enter(tenant, None)
            assert [value for _, value in await pair.keys.headers(tenant)][:2] == [b"2", b"1"]
            caller.drop()
            CALLER.set(caller)
            with pytest.raises(ApiError):
                await pair.client.submit(request("x"))
            assert pair.engine.submitted == []
            await pair.keys.enter(tenant, None)
            with pytest.raises(ApiError, match="requests a minute"):
                await pair.keys.enter(tenant, None)
            keys.apply([])
            with pytest.raises(ApiError) as unknown:
                await pair.keys.enter(tenant, None)
            assert unknown.value.status == 401

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


def test_connections_are_spread_and_those_of_a_dead_front_end_go_to_another() -> None:
    async def test() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        handover = Handover(listener)
        handover.begin()
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        await asyncio.sleep(0.02)  # nobody is there yet: they wait
        pairs = [socket.socketpair() for _ in range(3)]
        hatches = [Hatch(ours) for ours, _ in pairs]
        for ours, theirs in pairs:
            ours.setblocking(False)
            theirs.setblocking(False)
        for hatch in hatches:
            handover.add(hatch)
        clients += [socket.create_connection(listener.getsockname()) for _ in range(6)]
        await settle(lambda: [hatch.open for hatch in hatches] == [3, 3, 3])
        mine = receive(pairs[0][1])
        assert len(mine) == 3
        hatches[0].taken(3)
        names = [connection.getpeername() for connection in mine[:2]]
        for connection in mine[:2]:
            connection.close()
        for client in clients:
            if client.getsockname() in names:  # nobody else holds it open
                client.settimeout(5)
                assert client.recv(1) == b""
        hatches[0].closed(2)
        clients += [socket.create_connection(listener.getsockname()) for _ in range(2)]
        await settle(lambda: [hatch.open for hatch in hatches] == [3, 3, 3])
        pairs[1][1].close()  # dies with three that it never took
        handover.remove(hatches[1])
        assert [hatch.open for hatch in hatches] == [5, 0, 4] or [hatch.open for hatch in hatches] == [4, 0, 5]
        late = socket.create_connection(listener.getsockname())
        await settle(lambda: sum(hatch.open for hatch in hatches) == 10)
        handover.close()
        with pytest.raises(ConnectionError):
            socket.create_connection(listener.getsockname() if listener.fileno() >= 0 else late.getpeername())
        there = [mine[2], *receive(pairs[0][1]), *receive(pairs[2][1])]
        assert {connection.getpeername() for connection in there} <= {each.getsockname() for each in [*clients, late]}
        assert len({connection.getpeername() for connection in there}) == 10
        pairs[0][0].close()
        with pytest.raises(EOFError):
            receive(pairs[0][1])
        for each in (*clients, *there, late):
            each.close()

    run(test)


def test_the_last_one_s_death_makes_connections_wait() -> None:
    async def test() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        handover = Handover(listener)
        handover.begin()
        first, second = socket.socketpair(), socket.socketpair()
        for end in (*first, *second):
            end.setblocking(False)
        hatch = Hatch(first[0])
        handover.add(hatch)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(4)]
        await settle(lambda: hatch.open == 4)
        first[1].close()
        handover.remove(hatch)
        clients.append(socket.create_connection(listener.getsockname()))
        await asyncio.sleep(0.02)
        heir = Hatch(second[0])
        handover.add(heir)
        await settle(lambda: heir.open == 5)
        names = {connection.getpeername() for connection in receive(second[1])}
        assert names == {client.getsockname() for client in clients}
        handover.close()

    run(test)


def test_work_that_nobody_waits_for_counts_for_its_key(tmp_path: Path) -> None:
    """A batch's, at a front end: within half of the limits, in the queue of the server's own work."""

    async def go() -> None:
        path = tmp_path / "keys.yaml"
        path.write_text("keys: [{name: a, key: key-of-a1, requests_per_minute: 4}]")
        ring = Keyring(path, clock=lambda: 0.0)
        async with Pair(Engine(), ring) as pair:
            tenant = pair.keys.tenants["a"]
            caller = await pair.keys.enter(tenant, None, background=True)
            token = CALLER.set(caller)
            outputs = await pair.client.submit(msgspec.structs.replace(request("line"), priority=7))
            CALLER.reset(token)
            await settle(lambda: pair.engine.submitted)
            assert pair.engine.submitted[0].priority == 7
            await pair.keys.enter(tenant, None, background=True)
            with pytest.raises(ApiError):
                await pair.keys.enter(tenant, None, background=True)
            await pair.keys.enter(tenant, None)
            pair.engine.give("line", [5, 6], "stop")
            assert [output.token_ids async for output in outputs] == [[5, 6]]
            caller.drop()
            await settle(lambda: ring.tenants["a"].concurrent == 2)
            assert (ring.tenants["a"].requests, ring.tenants["a"].generation_tokens) == (3, 2)

    run(go)
