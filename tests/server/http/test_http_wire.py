"""The socket itself: heads too long or too slow, bodies that never end, readers that never read, stop signals."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def everything(connection: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not part:
            return received
        received += part


def one_answer(connection: socket.socket) -> bytes:
    """All of it, of an answer that says its length; the connection goes on."""
    received = b""
    while not (found := re.search(rb"content-length: (\d+)\r\n(?:.+\r\n)*\r\n", received)):
        received += connection.recv(65536)
    while len(received) < found.end() + int(found[1]):
        received += connection.recv(65536)
    return received


def error_of(answer: bytes, status: int) -> Any:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"application/json" in head
    return json.loads(body)["error"]


def test_not_http(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app()
    url = live(app, plain.config)
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"hello\r\n\r\n"):
        with connect(url) as connection:
            connection.sendall(garbage)
            assert error_of(everything(connection), 400)["code"] == "invalid_http"


@pytest.mark.parametrize("size", [40_000, 300_000, 3_000_000])
def test_a_large_body_is_no_head(plain: Any, live: Callable[..., str], size: int) -> None:
    app = plain.app()
    body = json.dumps({"prompt": "a", "x": "y" * size}).encode()
    with connect(live(app, plain.config)) as connection:
        for last in (False, True):  # the connection goes on, and is not taken for a slow head either
            close = b"connection: close\r\n" if last else b""
            connection.sendall(HEAD + close + b"content-length: %d\r\n\r\n" % len(body) + body)
            if not last:
                assert one_answer(connection).startswith(b"HTTP/1.1 200 ")
        assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_outlives_the_time_for_a_head(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app(header_timeout=0.3)
    with connect(live(app, plain.config)) as connection:
        for _ in range(2):
            connection.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
            assert one_answer(connection).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.8)


def test_a_body_that_is_not_http(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app()
    url = live(app, plain.config)
    for garbage in (b"transfer-encoding: chunked\r\n\r\nzzz\r\n", b"transfer-encoding: gzip\r\n\r\n{}"):
        with connect(url) as connection:
            connection.sendall(HEAD + garbage)
            assert error_of(everything(connection), 400)["code"] == "invalid_http"


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100])
def test_an_endless_head(plain: Any, live: Callable[..., str], start: bytes) -> None:
    app = plain.app(max_header_bytes=4000)
    with connect(live(app, plain.config)) as connection:
        connection.sendall(start)
        answer, reset = b"", False
        try:
            for _ in range(100):
                connection.sendall(b"y" * 1000 if not start.endswith(b"\n") else b"c: d\r\n" * 100)
                time.sleep(0.001)
        except ConnectionError:
            reset = True
        try:
            while part := connection.recv(65536):  # a TimeoutError where the server waits for more
                answer += part
        except ConnectionError:
            reset = True
        if answer or not reset:
            assert error_of(answer, 431)["code"] == "headers_too_large"


def test_a_slow_head_and_a_silent_connection(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app(header_timeout=0.3)
    url = live(app, plain.config)
    with connect(url) as silent, connect(url) as slow:
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 5:
                slow.sendall(b"G" if time.monotonic() - begun < 0.01 else b"E")
                time.sleep(0.05)
        except OSError:
            pass
        assert everything(silent) == b""
        assert time.monotonic() - begun < 2


def test_a_slow_head_on_a_kept_connection(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app(header_timeout=0.3)
    with connect(live(app, plain.config)) as connection:
        for _ in range(3):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in one_answer(connection)
            time.sleep(0.1)
        connection.sendall(b"GET /hea")
        begun = time.monotonic()
        assert everything(connection) == b""
        assert time.monotonic() - begun < 2


def test_a_slow_body(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app(body_timeout=0.3)
    with connect(live(app, plain.config)) as connection:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n"
        )
        connection.sendall(head + b'{"prompt":')
        assert error_of(everything(connection), 408)["code"] == "request_timeout"


def test_an_endless_chunked_body(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app(max_body_bytes=100_000)
    with connect(live(app, plain.config)) as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        try:
            for _ in range(3000):
                connection.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        except OSError:
            return
        pytest.fail("the server read 48 MB of body")


def test_pipelined_requests_are_answered_in_order(plain: Any, live: Callable[..., str]) -> None:
    app = plain.app()
    with connect(live(app, plain.config)) as connection:
        connection.sendall(
            b"GET /version HTTP/1.1\r\nhost: x\r\nx-request-id: one\r\n\r\n"
            b"GET /nope HTTP/1.1\r\nhost: x\r\nx-request-id: two\r\nconnection: close\r\n\r\n"
        )
        answer = everything(connection)
        assert answer.index(b"x-request-id: one") < answer.index(b"x-request-id: two")
        assert b"200 OK" in answer
        assert b"404 Not Found" in answer


def test_who_does_not_read_does_not_keep_the_engine(
    plain: Any, live: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """The engine's outputs are read on, and the connection is given up after `send_timeout`."""
    plain.max_model_len = plain.engine.max_model_len = 1 << 20
    plain.engine.script = plain.say("x" * 40_000, finish="length")
    app = plain.app(send_timeout=0.5)
    url = live(app, plain.config)
    fields = {"prompt": "a", "stream": True, "max_tokens": 500_000}
    body = json.dumps(fields | {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}).encode()
    with connect(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        deadline = time.monotonic() + 20
        while "took nothing" not in caplog.text or "yardmaster_request_generation_tokens_count 1.0" not in (
            plain.metrics.render().decode()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # Played to its end before that, or ended with it.
        over = 'finished_reason="length"} 1.0' in plain.metrics.render().decode()
        assert over != bool(plain.engine.aborted)
    with connect(url) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"200 OK" in everything(connection)


def test_leaving_while_the_engine_is_silent(plain: Any, live: Callable[..., str]) -> None:
    """No output ever comes: only the closed connection tells."""
    plain.engine.script = lambda submit: [30.0]
    app = plain.app()
    url = live(app, plain.config)
    for stream in (False, True):
        body = json.dumps({"prompt": "a", "stream": stream}).encode()
        count = len(plain.engine.aborted)
        with connect(url) as connection:
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            deadline = time.monotonic() + 10
            while len(plain.engine.submitted) == count:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(0.2)
            assert len(plain.engine.aborted) == count
        begun = time.monotonic()
        while len(plain.engine.aborted) == count:
            assert time.monotonic() - begun < 2
            time.sleep(0.005)
