"""Bytes and clients of every bad kind on a real socket: the server answers on, and keeps nothing of them."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import re
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
POSTS: dict[str, Any] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "a", "n": 2, "stream": True},
    "/v1/messages": CHAT | {"model": "test-model"},
    "/v1/responses": {"model": "test-model", "input": "hi", "stream": True},
    "/v1/batches": {"input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h"},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1, 2]},
}
GETS = ("/v1/models", "/v1/files?limit=2", "/v1/responses/resp_1", "/health", "/metrics", "/admin/keys", "/nowhere")
TEXTS = (
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\xc0\xaf", b"\r\n", b"\n\n", b"\r\n\r\n", b"%00", b"%zz"),
    *(b"NaN", b"Infinity", b"-0", b"1e999", b"9" * 400, b"-" + b"9" * 30, b"[" * 5000, b'{"a":' * 3000, b'"', b"\\"),
    *(b"content-length: 5\r\n", b"content-length: 7\r\n", b"Content-Length: -1\r\n", b"content-length: 9" + b"9" * 30),
    *(b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n", b"content-encoding: gzip\r\n"),
    *(b"expect: 100-continue\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"upgrade: websocket\r\n"),
    *(b"authorization: Bearer \xff\r\n", b"x-api-key: a\r\n", b"x-request-id: \x07\xe9\r\n", b"host: a\r\nhost: b\r\n"),
    *(b"x-request-timeout: nan\r\n", b"content-type: text/plain\r\n", b": empty\r\n", b" folded\r\n", b"a" * 70_000),
    *(b"HTTP/1.0", b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"OPTIONS * "),
)


def head(house: Any, method: str, path: str, *lines: str) -> bytes:
    kept = [f"{name}: {value}" for name, value in house.headers("ops").items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *kept, *lines, "", ""]).encode()


def post(house: Any, path: str, body: bytes, *lines: str) -> bytes:
    return head(house, "POST", path, "content-type: application/json", f"content-length: {len(body)}", *lines) + body


def valid(house: Any, dice: random.Random) -> bytes:
    """A request that would be served."""
    kind = dice.randrange(10)
    if kind < 2:
        return head(house, dice.choice(["GET", "HEAD", "DELETE"]), dice.choice(GETS))
    if kind == 2:
        form = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
        form += b'content-disposition: form-data; name="file"; filename="a"\r\n\r\n{"custom_id": "a"}\r\n--b--\r\n'
        lines = ("content-type: multipart/form-data; boundary=b", f"content-length: {len(form)}")
        return head(house, "POST", "/v1/files", *lines) + form
    path = dice.choice(list(POSTS))
    body = json.dumps(POSTS[path]).encode()
    if kind > 3:
        return post(house, path, body)
    cuts = sorted(dice.randrange(len(body)) for _ in range(3))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return head(house, "POST", path, "content-type: application/json", "transfer-encoding: chunked") + chunked


def mutated(data: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.choice((0, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(7):
            case 0:
                data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[at + dice.randrange(1, 9) :]
            case 2:
                data = data[:at] + data[dice.randrange(len(data) + 1) :][: dice.randrange(200)] + data[at:]
            case 3:
                line = data.find(b"\r\n", at) + 2  # most of the pieces are lines of a head
                data = data[:line] + dice.choice(TEXTS) + data[line:]
            case 4:
                data = data[:at]
            case _:
                data = data[:at] + dice.choice(TEXTS) + data[at:]
    return data


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


@pytest.fixture
def house(plain: Any, open_house: Callable[..., Any]) -> Any:
    return open_house(plain, header_timeout=1.0, body_timeout=1.0, send_timeout=1.0)


@pytest.mark.parametrize(
    ("cases", "seed"), [(150, None), pytest.param(20_000, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_random_bytes(house: Any, cases: int, seed: int | None) -> None:
    """Whole requests, mutated: each is answered, or its connection closed, and never with a server's error."""
    seed = random.randrange(1 << 30) if seed is None else seed
    dice = random.Random(seed)
    with house.http() as http:
        assert http.get("/health").status_code == 200
    burden = Burden(house)
    counted: dict[int, int] = {}
    for case in range(cases):
        sent = b"".join(mutated(valid(house, dice), dice) for _ in range(dice.choice((1, 1, 1, 2, 3))))
        with connect(house) as connection:
            with contextlib.suppress(OSError):
                cut = dice.randrange(len(sent) + 1)
                connection.sendall(sent[:cut])
                connection.sendall(sent[cut:])
                connection.shutdown(socket.SHUT_WR)
            answer = said(connection)
        house.keyring.draining = False
        for status in statuses(answer):
            counted[status] = counted.get(status, 0) + 1
            assert status < 500, (seed, case, sent, answer[:500])
        assert b"Internal Server Error" not in answer, (seed, case, sent)
    print(f"{cases} connections, answers by status: {dict(sorted(counted.items()))}")
    assert {200, 400} <= counted.keys()
    burden.settled()


def gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def test_bodies_that_are_bombs(house: Any) -> None:
    """Small on the wire, or in one place; each is refused, and quickly."""
    nested = b'{"prompt": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    chat = b'{"messages": [{"role": "user", "content": %s}]}'
    for path, body, lines, wanted in (
        ("/v1/completions", gzipped(b" " * 50_000_000), ("content-encoding: gzip",), 415),
        ("/v1/completions", nested, (), 413),
        ("/v1/completions", b'{"prompt": "a", "n": ' + b"9" * 100_000 + b"}", (), 400),
        ("/v1/completions", b'{"prompt": "a", "temperature": NaN}', (), 400),
        ("/v1/completions", b'{"prompt": "a", "temperature": 1e999}', (), 400),
        ("/v1/completions", b'{"prompt": "a", "logit_bias": {"1": Infinity}}', (), 400),
        ("/v1/completions", b'{"prompt": [' + b"9" * 100 + b"]}", (), 400),
        ("/v1/completions", b"\xff\xfe{}", (), 400),
        ("/v1/completions", b'\xef\xbb\xbf{"prompt": "a"}', (), 400),
        ("/v1/chat/completions", chat % b'"\\ud800\\u0000\xed\xa0\x80"', (), 400),
        ("/v1/chat/completions", chat % b'"\\ud800 \\u0000"', (), None),
        ("/v1/chat/completions", chat % (b'"' + b"\xf0\x9f\x99\x82" * 100_000 + b'"'), (), 400),
        ("/v1/chat/completions", b'{"messages": [' + b"{}," * 100_000 + b"{}]}", (), 413),
        ("/v1/chat/completions", b'{"a": 1, ' * 1 + b'"messages": 1, "messages": []}', (), 400),
    ):
        began = time.monotonic()
        with connect(house) as connection:
            connection.sendall(post(house, path, body, "connection: close", *lines))
            answer = said(connection)
        assert time.monotonic() - began < 5
        (status,) = statuses(answer)
        assert status == wanted if wanted else status in (200, 400), (body[:80], answer[:300])
        assert status == 200 or json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def chunked(house: Any, rest: bytes) -> bytes:
    return head(house, "POST", "/tokenize", "content-type: application/json", "transfer-encoding: chunked") + rest


@pytest.mark.parametrize(
    ("name", "start", "more"),
    [
        ("trailer lines", b"2\r\n{}\r\n0\r\n", b"a: " + b"b" * 60_000 + b"\r\n"),
        ("a trailer without end", b"2\r\n{}\r\n0\r\na: ", b"b" * 65_536),
        ("a chunk's extension", b"2;a=", b"b" * 65_536),
        ("extensions", b"", b"1;" + b"a" * 60_000 + b"\r\n{\r\n"),
        ("what follows a refusal", b"zz", b"a" * 65_536),
    ],
)
def test_what_is_sent_around_a_body_is_bounded(house: Any, name: str, start: bytes, more: bytes) -> None:
    """It is not kept, and not read without end."""
    burden = Burden(house)
    sent = 0
    with connect(house) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(chunked(house, start))
            while sent < 64 << 20:
                connection.sendall(more)
                sent += len(more)
        assert sent < 64 << 20, name
        assert all(400 <= status < 500 for status in statuses(said(connection)))
    burden.settled(megabytes=32)


def test_many_small_chunks(house: Any) -> None:
    body = json.dumps({"prompt": "a" * 50_000}).encode()
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nx-trailer: a\r\n\r\n"
    with connect(house) as connection:
        connection.sendall(chunked(house, pieces))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("conflicting lengths", ("content-length: 2", "content-length: 3")),
        ("length and chunks", ("content-length: 2", "transfer-encoding: chunked")),
        ("a negative length", ("content-length: -2",)),
        ("a length that is no number", ("content-length: 2a",)),
        ("a length beyond all", ("content-length: 99999999999999999999",)),
        ("another coding", ("transfer-encoding: chunked, gzip",)),
        ("a folded line", ("content-length: 2", "x: a\r\n b")),
        ("a line without a name", ("content-length: 2", ": a")),
        ("a space before the colon", ("content-length : 2",)),
        ("NUL", ("content-length: 2", "x: \0")),
    ],
)
def test_heads_that_smuggle(house: Any, name: str, lines: tuple[str, ...]) -> None:
    """What two servers could read differently is read by none."""
    with connect(house) as connection:
        connection.sendall(head(house, "POST", "/tokenize", "content-type: application/json", *lines) + b"{}")
        connection.sendall(head(house, "GET", "/version"))
        answer = said(connection)
    assert statuses(answer) in ([400], [413], []), (name, answer)


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
    with house.http() as http:
        for _ in range(100):
            http.post("/v1/chat/completions", json=CHAT)
            http.get("/v1/files")
    assert threading.active_count() < 100
    assert len(os.listdir("/proc/self/fd")) < 200
