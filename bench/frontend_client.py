"""The client of bench/frontend.py: as cheap as Python allows, so that it is the server that is measured."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from yardmaster.bench.null_rank import SPARE

_CONTENT = re.compile(rb'"content":"([^"]*)"')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_END = b"data: [DONE]\n\n"


def request(tokens: int, interval: float, stream: bool) -> bytes:
    body = json.dumps(
        {
            "model": "null",
            "messages": [{"role": "user", "content": "Say x, and go on until you are told to stop. " * 3}],
            "max_tokens": tokens + SPARE,
            "seed": int(interval * 1e6),
            "stream": stream,
        }
    )
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


class Connection(asyncio.Protocol):
    """One connection, kept alive. `answer` resolves at an answer's end."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[None] | None = None
        self.transport: Any = None
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the server closed the connection"))

    def send(self, data: bytes) -> asyncio.Future[None]:
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._read(time.monotonic())

    def _read(self, now: float) -> None:
        """A whole answer, or the end of a stream that nobody looks into."""
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._data, 0, head)
        over = len(self._data) >= head + 4 + int(length[1]) if length else self._data.endswith(b"0\r\n\r\n")
        if over:
            if not self._data.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(bytes(self._data[:300]))
            self._done()

    def _done(self) -> None:
        self._data.clear()
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)


class Paced(Connection):
    """A stream of tokens to a timetable: how late each came, and in how many events they came."""

    def __init__(self, interval: float) -> None:
        super().__init__()
        self.tokens = self.events = 0
        self.late: list[float] = []
        self._interval = interval
        self._due: float | None = None

    def _read(self, now: float) -> None:
        end = self._data.rfind(b"\n\n") + 2
        if end < 2:
            return
        ready = bytes(self._data[:end])
        del self._data[:end]
        for match in _CONTENT.finditer(ready):
            content = match[1]
            if self._due is None and content:
                begun, _, content = content.partition(b" ")
                self._due = float(begun) + self._interval
            if content and self._due is not None:
                self.events += 1
                self.tokens += len(content)
                for _ in content:
                    self.late.append(now - self._due)
                    self._due += self._interval
        if _END in ready:
            self._done()


@dataclass
class Found:
    seconds: float = 0.0
    requests: int = 0
    tokens: int = 0
    events: int = 0
    late: list[float] = field(default_factory=list)  # seconds, of each token
    latencies: list[float] = field(default_factory=list)  # seconds, of each request


async def requests(port: int, connections: int, seconds: float, tokens: int, stream: bool) -> Found:
    """As many short requests as go through `connections` connections, one after the other on each."""
    loop, found, data = asyncio.get_running_loop(), Found(), request(tokens, 0, stream)
    open_ones = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(connections)]
    begun = time.monotonic()

    async def work(connection: Connection) -> None:
        while (sent := time.monotonic()) < begun + seconds:
            await connection.send(data)
            found.latencies.append(time.monotonic() - sent)

    await asyncio.gather(*map(work, open_ones))
    found.seconds, found.requests = time.monotonic() - begun, len(found.latencies)
    found.tokens = found.requests * tokens
    for connection in open_ones:
        connection.transport.close()
    return found


async def streams(port: int, count: int, tokens: int, interval: float) -> Found:
    """`count` streams at once, each of `tokens` tokens, one every `interval` seconds."""
    loop, found, data = asyncio.get_running_loop(), Found(), request(tokens, interval, True)
    open_ones = [(await loop.create_connection(lambda: Paced(interval), "127.0.0.1", port))[1] for _ in range(count)]
    begun = time.monotonic()
    await asyncio.gather(*(connection.send(data) for connection in open_ones))
    found.seconds = time.monotonic() - begun
    for connection in open_ones:
        found.tokens += connection.tokens
        found.events += connection.events
        found.late += connection.late
        connection.transport.close()
    found.requests = count
    if found.tokens != count * tokens:
        raise RuntimeError(f"{found.tokens} tokens came of {count * tokens}")
    return found
