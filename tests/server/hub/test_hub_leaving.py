"""Who leaves the hub, dies or does not read: nothing of it stays behind, and connections go to others."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from yardmaster.engine.client import EngineDead
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.fair.tenant import CALLER
from yardmaster.server.http.errors import ApiError
from yardmaster.server.hub.client import HUB_GONE
from yardmaster.server.hub.handover import Handover, Hatch, receive
from yardmaster.server.hub.messages import Abort, Enter, Leave, Sequence
from yardmaster.tests.server.hub.hall import Engine, Pair, request, run, settle


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
            await pair.client.submit(request("d"))  # by now the hub has heard of "c" and its end
            await settle(lambda: set(pair.desk._live) == {"d"})
            assert set(pair.engine.streams) == {"d"}

    run(test)


def test_who_is_cancelled_in_the_same_moment_leaves_nothing(tmp_path: Path) -> None:
    """Both messages come in one read, so the second is heard before anything has been done about the first."""
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{name: one, key: key-number-one, max_concurrent: 3}]")

    async def test() -> None:
        keys, engine = Keyring(file), Engine()
        async with Pair(engine, keys) as pair:
            tenant, hear = keys.tenants["one"], pair.desk._hear
            hear(Enter(1, "one", None))
            hear(Leave(1))
            hear(Enter(2, "one", None))
            await settle(lambda: tenant.concurrent == 1)
            hear(Sequence(3, request("early"), 2))
            hear(Abort("early"))
            hear(Leave(2))
            await settle(lambda: tenant.concurrent == 0 and not pair.desk._tasks)
            assert not engine.streams
            hear(Enter(4, "one", None))
            engine.slow = asyncio.Event()
            await settle(lambda: tenant.concurrent == 1)
            hear(Sequence(5, request("amid"), 4))
            await settle(lambda: "amid" in engine.asked)
            hear(Abort("amid"))
            hear(Leave(4))
            engine.slow.set()
            await settle(lambda: not pair.desk._tasks)
            assert not engine.streams
            assert (tenant.concurrent, tenant.running) == (0, 0)
            assert not pair.desk._live
            assert not pair.desk._coming
            assert not pair.desk._entering

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
            await settle(lambda: "late" in engine.asked)
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
            await settle(lambda: "late" in engine.asked)
            pair.wire._transport.abort()  # type: ignore[union-attr]
            await settle(late.done)
            assert isinstance(late.exception(), EngineDead)
            engine.slow.set()
            await pair.desk.settled()
            assert engine.aborted == ["late"]
            assert not engine.streams

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
