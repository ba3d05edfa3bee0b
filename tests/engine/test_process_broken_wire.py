"""A connection between a leader and the front end that breaks: what was lost with it is never passed over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time

import pytest

from yardmaster.engine.channel import SECRET_VARIABLE, FrontSocket, RankSocket, private_address
from yardmaster.engine.messages import RankReport, ToEngine, Wake

PATIENCE = 30.0  # seconds; of a busy machine


class Proxy:
    """One connection to `address`, passed on both ways until it is reset."""

    def __init__(self, address: str) -> None:
        self._port = int(address.rpartition(":")[2])
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, far_writer]
        for source, target in ((reader, far_writer), (far_reader, writer)):
            self._tasks.append(asyncio.create_task(self._pass(source, target)))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()

    def reset(self) -> None:
        """Both connections end with RST; a new one may be made."""
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers = []

    async def close(self) -> None:
        self.reset()
        self._server.close()
        await asyncio.gather(*self._tasks)


async def _lost(wire: RankSocket) -> list[ToEngine]:
    """What still arrives until the wire says that it broke."""
    arrived: list[ToEngine] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            arrived += wire.receive(0.0)
        except ConnectionError:
            return arrived
        await asyncio.sleep(0.01)
    raise AssertionError("nobody noticed")


def test_a_reset_connection_is_an_error_though_another_could_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setenv(SECRET_VARIABLE, os.urandom(16).hex())
        front = FrontSocket("tcp://127.0.0.1:0")
        proxy = Proxy(front.address)
        wire = RankSocket(await proxy.open(), "rank-0")
        try:
            wire.send(RankReport(rank=0))
            assert await asyncio.wait_for(front.receive(), PATIENCE) == ("rank-0", RankReport(rank=0))
            assert wire.receive(0.0) == []
            proxy.reset()
            assert await _lost(wire) == []
        finally:
            wire.close(0)
            front.close()
            await proxy.close()

    asyncio.run(main())


def test_what_came_before_the_end_is_received_first() -> None:
    async def main() -> None:
        with private_address() as address:
            front = FrontSocket(address)
            wire = RankSocket(address, "rank-0")
            wire.send(RankReport(rank=0))
            await asyncio.wait_for(front.receive(), PATIENCE)
            for _ in range(5):
                front.send(0, Wake())
            front.close()
            assert await _lost(wire) == [Wake()] * 5
            with pytest.raises(ConnectionError):
                wire.receive(0.0)
            wire.close(0)

    asyncio.run(main())


def test_a_front_end_that_is_not_there_yet_is_waited_for() -> None:
    async def main() -> None:
        with private_address() as address:
            wire = RankSocket(address, "rank-0")
            wire.send(RankReport(rank=0))
            assert wire.receive(0.2) == []
            front = FrontSocket(address)
            await asyncio.wait_for(front.receive(), PATIENCE)
            front.send(0, Wake())
            assert wire.receive(PATIENCE) == [Wake()]
            wire.close(0)
            front.close()

    asyncio.run(main())
