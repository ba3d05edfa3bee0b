"""Frames over one stream socket between two processes of one user: four bytes of length, then msgpack.

What is sent within one turn of the event loop goes out in one write. `full` tells a sender that the other side is
behind, so that it may gather instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

log = logging.getLogger("yardmaster.hub")

_HIGH_WATER = 256 << 10  # bytes that wait for the other side before it counts as behind
_CLOSE_SECONDS = 1.0
_LENGTH = 4

T = TypeVar("T")


class Wire(asyncio.Protocol, Generic[T]):
    """One end. `hear` takes each message, `lost` is called once when the other side has gone, `drained` when a full
    wire has room again. What does not decode ends the wire: both sides are of one installation.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[T],
        hear: Callable[[T], None],
        lost: Callable[[], None],
        drained: Callable[[], None] = lambda: None,
    ) -> None:
        self.full = False
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._hear = hear
        self._lost = lost
        self._drained = drained
        self._closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._outgoing: list[bytes] = []

    async def open(self, end: socket.socket) -> None:
        end.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=end)

    def send(self, message: Any) -> None:
        """Never waits; to a side that has gone, nothing is sent."""
        if self._transport is None or self._transport.is_closing():
            return
        body = self._encoder.encode(message)
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += (len(body).to_bytes(_LENGTH, "little"), body)

    async def close(self) -> None:
        """What was sent still goes out, if the other side takes it within a second."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _CLOSE_SECONDS)
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at, size = 0, len(received)
        while size - at >= _LENGTH:
            end = at + _LENGTH + int.from_bytes(received[at : at + _LENGTH], "little")
            if end > size:
                break
            try:
                message = self._decoder.decode(memoryview(received)[at + _LENGTH : end])
            except (ValueError, msgspec.MsgspecError) as error:
                log.error("a message between the hub and a front end could not be read: %s", error)
                self._abort()
                return
            at = end
            try:
                self._hear(message)
            except Exception:  # a bug in one message's handling must not make this side deaf
                log.exception("handling a %s failed", type(message).__name__)
        if at:
            del received[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self._outgoing.clear()
        self._closed.set()
        self._lost()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._drained()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()
