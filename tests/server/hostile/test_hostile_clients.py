"""Clients of every bad kind on a real socket, slow, silent, idle or many: the server keeps nothing of them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from yardmaster.tests.server.hostile.wire import CHAT, Burden, chunked, connect, head, post, said, statuses


@pytest.fixture
def house(plain: Any, open_house: Callable[..., Any]) -> Any:
    return open_house(plain, header_timeout=1.0, body_timeout=1.0, send_timeout=1.0)


def test_slow_heads_and_bodies_are_cut_off(house: Any) -> None:
    """Drop by drop, a hundred of each: all are gone after their limit, and requests beside them are answered."""
    burden = Burden(house)
    body = post(house, "/v1/completions", b'{"prompt": "' + b"a" * 500 + b'"}')
    late = head(house, "GET", "/health", "content-length: 1000")  # answered at once, its body still to come
    starts = [b"GET /version HTTP/1.1\r\nx: ", body[:-480], late, chunked(house, b"")]
    drops = [b"a", b"a", b"a", b"1\r\n \r\n"]
    slow = [(connect(house), place % 4) for place in range(120)]
    over: list[socket.socket] = []
    with contextlib.ExitStack() as open_ones, house.http() as http:
        for connection, kind in slow:
            open_ones.enter_context(connection)
            connection.sendall(starts[kind])
        began = time.monotonic()
        while len(over) < len(slow):
            assert time.monotonic() - began < 15, [kind for connection, kind in slow if connection not in over]
            for connection, kind in slow:
                if connection in over:
                    continue
                try:
                    connection.sendall(drops[kind])
                except OSError:
                    over.append(connection)
            assert http.post("/v1/completions", json={"prompt": "a"}).status_code == 200
            time.sleep(0.1)
    burden.settled()


@pytest.mark.parametrize("stream", [False, True])
def test_who_says_no_more_is_answered_or_given_up(house: Any, stream: bool) -> None:
    """A client that closes its half: the answer still comes whole, or the engine is told to stop."""
    house.stage.engine.script = house.stage.say("hello", pause=0.05)
    burden = Burden(house)
    body = json.dumps({"prompt": "a", "stream": stream}).encode()
    aborted = len(house.stage.engine.aborted)
    with connect(house) as connection:
        connection.sendall(post(house, "/v1/completions", body, "connection: close"))
        connection.shutdown(socket.SHUT_WR)
        answer = said(connection)
    whole = b"[DONE]" in answer if stream else b'"finish_reason":"stop"' in answer
    deadline = time.monotonic() + 5
    while not whole and len(house.stage.engine.aborted) == aborted:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    burden.settled()


@pytest.mark.parametrize("how", ["closed", "kept", "stream"])
def test_who_reads_nothing_is_given_up(plain: Any, open_house: Callable[..., Any], how: str) -> None:
    """Whole answers too, that wait in a buffer: it, and the connection, are gone after the limit."""
    house = open_house(plain, buffer=4096, send_timeout=0.5, keep_alive_timeout=1)
    house.stage.engine.script = house.stage.say("é" * 1500, finish="length", size=1 if how == "stream" else 500)
    burden = Burden(house)
    fields = {"prompt": "a", "max_tokens": 3500, "n": 2 if how == "stream" else 40}
    body = json.dumps(fields | {"stream": True} if how == "stream" else fields).encode()
    lines = () if how == "kept" else ("connection: close",)
    with contextlib.ExitStack() as open_ones:
        stuck = [open_ones.enter_context(connect(house, 4096)) for _ in range(8)]
        for connection in stuck:
            connection.sendall(post(house, "/v1/completions", body, *lines))
        begun = time.monotonic()
        while len(house.server.server_state.connections) == 0:
            time.sleep(0.01)
        while house.server.server_state.connections:
            assert time.monotonic() - begun < 25, house.server.server_state.connections
            time.sleep(0.05)
        house.stage.engine.script = house.stage.say("hello")
    burden.settled()


@contextlib.contextmanager
def many_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def versioned(connection: socket.socket) -> None:
    """Takes one answer of /version."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(4096)
    assert statuses(answer) == [200]


def test_a_thousand_idle_connections(plain: Any, open_house: Callable[..., Any]) -> None:
    """Kept alive after an answer, or silent from the start; requests beside them are answered at the usual pace."""
    house = open_house(plain)
    burden = Burden(house)

    def pace() -> float:
        with house.http() as http:
            http.get("/health")
            began = time.monotonic()
            for _ in range(30):
                assert http.post("/v1/completions", json={"prompt": "a", "stream": True}).status_code == 200
        return time.monotonic() - began

    alone = pace()
    with many_files(2500), contextlib.ExitStack() as open_ones:
        idle = [open_ones.enter_context(connect(house)) for _ in range(1000)]
        for connection in idle[::2]:
            connection.sendall(head(house, "GET", "/version"))
        for connection in idle[::2]:
            versioned(connection)
        assert len(house.server.server_state.connections) >= 1000
        beside = pace()
        for connection in idle[:10:2]:  # and they are still good
            connection.sendall(head(house, "GET", "/version"))
            versioned(connection)
    print(f"30 requests: {alone:.2f} s alone, {beside:.2f} s beside 1000 connections")
    assert beside < 5 * alone + 2
    burden.settled()


def test_threads_and_files_are_few(house: Any) -> None:
    """A burst of requests to everything leaves no thread behind for each."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))  # with those of the tests before
    with house.http() as http:
        for _ in range(100):
            http.post("/v1/chat/completions", json=CHAT)
            http.get("/v1/files")
    assert threading.active_count() - threads < 50
    assert len(os.listdir("/proc/self/fd")) - files < 50
