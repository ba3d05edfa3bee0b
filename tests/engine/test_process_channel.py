"""The socket and the client over it, against ranks that are threads of this process speaking the wire's language."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from yardmaster.engine.channel import SECRET_VARIABLE, FrontSocket, RankSocket, private_address
from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.messages import (
    Abort,
    EngineStats,
    Failure,
    FromEngine,
    Hello,
    Outputs,
    RankReport,
    Ready,
    RequestOutput,
    Shutdown,
    Submit,
    ToEngine,
    Wake,
    encode,
)
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.zmq_client import ZmqEngineClient
from yardmaster.parallel.layout import ParallelConfig

STATS = EngineStats(running=0, waiting=0, kv_usage=0.0, preemptions=0, steps=0, prompt_tokens=0, generation_tokens=0)


class Stub:
    """Ranks that others play."""

    def __init__(self) -> None:
        self.stopped: bool | None = None
        self.end: str | None = None

    def ended(self) -> str | None:
        return self.end

    async def stop(self, orderly: bool) -> None:
        self.stopped = orderly


class Peer:
    """A raw DEALER, to send what no RankSocket would."""

    def __init__(self, address: str, name: bytes) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, name)
        self.socket.connect(address)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def close(self) -> None:
        self.socket.close(linger=0)


class World:
    """A client and the wires of its ranks; a follower's wire carries its beats."""

    def __init__(self, tp: int, dp: int, address: str) -> None:
        self.stub = Stub()
        self.lines: list[str] = []
        self.tp = tp
        config = EngineConfig(model="m", parallel=ParallelConfig(tp, dp))
        self.client = ZmqEngineClient(config, address, lambda bound: self.stub, self.lines.append)
        self.start = asyncio.create_task(self.client.start())
        self.wires = [
            RankSocket(address, f"rank-{rank}" if rank % tp == 0 else f"beat-{rank}") for rank in range(tp * dp)
        ]

    def ready(self, rank: int) -> None:
        leader = rank % self.tp == 0
        group = rank // self.tp
        hello = Hello(rank=rank, world_size=len(self.wires), group=group, leader=leader)
        self.wires[rank].send(hello)
        self.wires[rank].send(
            Ready(rank=rank, group=group, leader=leader, max_model_len=64 + rank, kv_tokens=640, ledger=["a line"])
        )

    async def up(self) -> None:
        for rank in range(len(self.wires)):
            self.ready(rank)
        await asyncio.wait_for(self.start, 5)

    async def got(self, rank: int, count: int = 1) -> list[ToEngine]:
        messages: list[ToEngine] = []
        for _ in range(200):
            messages += self.wires[rank].receive(0)
            if len(messages) >= count:
                break
            await asyncio.sleep(0.01)
        return messages

    async def close(self) -> None:
        await self.client.stop()
        await asyncio.gather(self.start, return_exceptions=True)
        for wire in self.wires:
            wire.close(0)


def play(tp: int, dp: int, body: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        with private_address() as address:
            world = World(tp, dp, address)
            try:
                await body(world)
            finally:
                await world.close()

    asyncio.run(main())


def submit(name: str, **params: Any) -> Submit:
    return Submit(request_id=name, prompt_token_ids=[1, 2], params=SamplingParams(**params))


def test_the_private_directory_is_private_and_goes() -> None:
    with private_address() as address:
        folder = Path(address.removeprefix("ipc://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_deep_temporary_directory_does_not_break_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with private_address() as address:
        assert len(address) < 108


def test_a_request_goes_out_and_its_tokens_come_back() -> None:
    async def body(world: World) -> None:
        with pytest.raises(EngineOverloaded):
            await world.client.submit(submit("early"))
        assert not world.client.ready
        await world.up()
        assert world.client.ready
        assert world.client.max_model_len == 64
        seen: list[tuple[int, EngineStats]] = []
        world.client.on_stats(lambda group, stats: seen.append((group, stats)))
        stream = await world.client.submit(submit("a"))
        (request,) = await world.got(0)
        assert isinstance(request, Submit)
        assert request.request_id == "a"
        assert request.params.seed is not None
        assert [type(message) for message in await world.got(1)] == [Wake]
        world.wires[0].send(Outputs(0, [RequestOutput(request_id="a", token_ids=[5])], STATS))
        assert (await anext(stream)).token_ids == [5]
        assert seen == [(0, STATS)]
        other = await world.client.submit(submit("b"))
        assert [type(message) for message in await world.got(1)] == [Submit]
        await other.aclose()
        assert await world.got(1) == [Abort("b")]
        await world.client.abort("a")
        assert await world.got(0) == [Abort("a")]
        assert [output.finish_reason async for output in stream] == ["abort"]
        await world.client.abort("a")
        await world.client.stop()
        assert await world.got(0) == [Shutdown()]
        assert world.stub.stopped is True
        with pytest.raises(EngineDead):
            await world.client.submit(submit("late"))

    play(1, 2, body)


HOSTILE: list[tuple[bytes, list[bytes]]] = [
    (b"rank-0", [b""]),
    (b"rank-1", [b"\xff" * 100]),
    (b"rank-1", [b"one", b"two"]),
    (b"rank-7", [encode(RankReport(rank=7))]),
    (b"rank-x", [encode(RankReport(rank=0))]),
    (b"rank-99999999999999999999", [encode(RankReport(rank=0))]),
    (b"\xff\xfe", [encode(RankReport(rank=0))]),
    (b"nobody", [encode(Failure(0, "fooled"))]),
    (b"agent-", [encode(Failure(0, "fooled"))]),
    (b"beat-1", [encode(Failure(0, "fooled"))]),
    (b"beat-1", [encode(Outputs(0, [RequestOutput(request_id="a", token_ids=[666])], STATS))]),
    (b"beat-1", [encode(Outputs(1 << 40, [], STATS))]),
    (b"beat-1", [encode(Outputs(-1, [], STATS))]),
    (b"agent", [encode(Outputs(0, [RequestOutput(request_id="a", token_ids=[666])], STATS))]),
    (b"agent", [b"\x00" * 4096]),
]


def test_hostile_bytes_change_nothing() -> None:
    async def body(world: World) -> None:
        await world.up()
        stream = await world.client.submit(submit("a"))
        address = world.client._address
        for name, frames in HOSTILE:
            if name.startswith(b"rank-0"):  # would take the leader's name over; its own wire says it instead
                world.wires[0]._socket.send_multipart(frames)
                continue
            peer = Peer(address, name)
            peer.send(*frames)
            await asyncio.sleep(0.02)
            peer.close()
        await asyncio.sleep(0.2)
        assert world.client.dead is None
        world.wires[0].send(Outputs(0, [RequestOutput(request_id="a", token_ids=[5], finish_reason="stop")], STATS))
        assert [output.token_ids async for output in stream] == [[5]]

    play(2, 1, body)


def test_a_rank_ignores_what_is_none_of_ours() -> None:
    async def main() -> None:
        with private_address() as address:
            front = FrontSocket(address)
            wire = RankSocket(address, "rank-0")
            wire.send(RankReport(rank=0))
            await asyncio.wait_for(front.receive(), 5)
            for body in (b"", b"\xc1", encode(RankReport(rank=0)), encode([1])):
                await front._socket.send_multipart([b"rank-0", body])
            front.send(0, Wake())
            received = []
            while not received:
                received = wire.receive(1.0)
            assert received == [Wake()]
            with pytest.raises(ConnectionError):
                front.send(1, Wake())
            wire.close()
            front.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Hello(rank=1, world_size=2, group=0, leader=False, protocol_version=2), ["rank 1", "protocol 2", "version"]),
        (Hello(rank=1, world_size=8, group=0, leader=False), ["rank 1", "world of 8", "--tp"]),
        (Failure(1, "model.safetensors is empty"), ["rank 1: model.safetensors is empty"]),
    ],
)
def test_a_start_that_fails_says_why(message: FromEngine, words: list[str]) -> None:
    async def body(world: World) -> None:
        world.ready(0)
        world.wires[1].send(message)
        with pytest.raises(EngineDead) as caught:
            await asyncio.wait_for(world.start, 5)
        assert all(word in str(caught.value) for word in words)
        assert await asyncio.wait_for(world.client.wait_dead(), 1) == str(caught.value)
        await world.client.stop()
        assert world.stub.stopped is False

    play(2, 1, body)


def test_the_launchers_word_beats_the_survivors() -> None:
    async def body(world: World) -> None:
        await world.up()
        streams = [await world.client.submit(submit(name)) for name in "ab"]
        world.wires[1].send(Failure(1, "lost its peers", symptom=True))
        await asyncio.sleep(0.3)
        assert world.client.dead is None
        with pytest.raises(EngineDead):
            await world.client.submit(submit("c"))
        agent = RankSocket(world.client._address, "agent")
        agent.send(Failure(0, "rank 0 was killed by SIGKILL"))
        for stream in streams:
            with pytest.raises(EngineDead, match=r"^rank 0 was killed by SIGKILL$"):
                await asyncio.wait_for(anext(stream), 2)
        agent.close()

    play(2, 1, body)


def test_a_launcher_that_ends_ends_the_engine() -> None:
    async def body(world: World) -> None:
        await world.up()
        world.stub.end = "the launcher of the ranks exited with code 9"
        reason = await asyncio.wait_for(world.client.wait_dead(), 5)
        assert reason == world.stub.end

    play(1, 1, body)


def test_stopping_while_it_starts() -> None:
    async def body(world: World) -> None:
        await asyncio.sleep(0.05)
        await world.client.stop()
        with pytest.raises(EngineDead, match="shutting down"):
            await asyncio.wait_for(world.start, 1)
        assert await world.client.wait_dead() is None
        assert world.stub.stopped is False

    play(1, 1, body)


def test_a_network_address_asks_for_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        for secret in (None, "", "short"):
            monkeypatch.delenv(SECRET_VARIABLE, raising=False)
            if secret is not None:
                monkeypatch.setenv(SECRET_VARIABLE, secret)
            with pytest.raises(ValueError, match=SECRET_VARIABLE):
                FrontSocket("tcp://127.0.0.1:0")
            with pytest.raises(ValueError, match=SECRET_VARIABLE):
                RankSocket("tcp://127.0.0.1:1", "rank-0")

    asyncio.run(main())


def test_only_who_has_the_secret_gets_past_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        right, wrong = os.urandom(16).hex(), os.urandom(16).hex()
        monkeypatch.setenv(SECRET_VARIABLE, right)
        front = FrontSocket("tcp://127.0.0.1:0")
        address = front.address
        received: list[tuple[str, FromEngine]] = []

        async def listen() -> None:
            while True:
                received.append(await front.receive())

        listening = asyncio.create_task(listen())
        plain = Peer(address, b"rank-0")
        plain.send(encode(Failure(0, "plain")))
        monkeypatch.setenv(SECRET_VARIABLE, wrong)
        liar = RankSocket(address, "rank-0")
        liar.send(Failure(0, "wrong secret"))
        # Knows the front end's public key, and so can talk CURVE to it, but has a key pair of its own.
        monkeypatch.setenv(SECRET_VARIABLE, right)
        from yardmaster.engine.channel import _key

        stranger = zmq.Context.instance().socket(zmq.DEALER)
        stranger.setsockopt(zmq.IDENTITY, b"rank-0")
        stranger.curve_serverkey = _key("front")[0]
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.connect(address)
        stranger.send(encode(Failure(0, "stranger")))
        await asyncio.sleep(0.5)
        assert received == []

        friend = RankSocket(address, "rank-0")
        friend.send(RankReport(rank=0))
        for _ in range(100):
            if received:
                break
            await asyncio.sleep(0.05)
        assert received == [("rank-0", RankReport(rank=0))]
        front.send(0, Wake())
        assert friend.receive(5) == [Wake()]
        listening.cancel()
        plain.close()
        stranger.close(linger=0)
        liar.close(0)
        friend.close(0)
        front.close()

    asyncio.run(main())


def test_an_address_in_use_is_a_clear_error() -> None:
    async def main() -> None:
        with private_address() as address:
            folder = Path(address.removeprefix("ipc://")).parent
            with pytest.raises(ValueError, match="cannot listen for ranks at"):
                FrontSocket(f"ipc://{folder}/missing/deeper/front")

    asyncio.run(main())
