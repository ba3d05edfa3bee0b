"""Requests as bytes, the connections that carry them, and what a server keeps of those who sent them."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import time
from typing import Any

import psutil

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def head(house: Any, method: str, path: str, *lines: str) -> bytes:
    kept = [f"{name}: {value}" for name, value in house.headers("ops").items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *kept, *lines, "", ""]).encode()


def post(house: Any, path: str, body: bytes, *lines: str) -> bytes:
    return head(house, "POST", path, "content-type: application/json", f"content-length: {len(body)}", *lines) + body


def chunked(house: Any, rest: bytes) -> bytes:
    return head(house, "POST", "/tokenize", "content-type: application/json", "transfer-encoding: chunked") + rest


class Burden:
    """What a server keeps: open files, tasks, connections. `settled()` fails where it does not go back to what it was.

    A file or two are opened when they are first needed.
    """

    SLACK = (3, 0, 0)

    def __init__(self, house: Any) -> None:
        self._house = house
        self._process = psutil.Process()
        self.before = self._now()
        self._memory = self._process.memory_info().rss

    def _now(self) -> tuple[int, int, int]:
        return self._process.num_fds(), self._house.tasks(), len(self._house.server.server_state.connections)

    def settled(self, patience: float = 10.0, megabytes: int = 64) -> None:
        deadline = time.monotonic() + patience
        while any(now > before + more for now, before, more in zip(self._now(), self.before, self.SLACK, strict=True)):
            assert time.monotonic() < deadline, (self._now(), self.before)
            time.sleep(0.05)
        gc.collect()
        assert self._process.memory_info().rss - self._memory < megabytes << 20
        with self._house.http() as http:
            assert http.get("/health").status_code == 200
            assert http.post("/v1/completions", json={"prompt": "a"}).json()["choices"][0]["text"] == "hello"


def connect(house: Any, buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", house.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return bytes(received)


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
