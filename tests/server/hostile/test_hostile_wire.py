"""Bytes of every bad kind on a real socket: the server answers on, and keeps nothing of them."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from yardmaster.tests.server.hostile.wire import CHAT, Burden, chunked, connect, head, post, said, statuses

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


def test_bodies_that_are_bombs(plain: Any, open_house: Callable[..., Any]) -> None:
    """Small on the wire, or in one place; each is refused, and quickly."""
    house = open_house(plain)  # with time for an honest body on a busy machine
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


def test_many_small_chunks(plain: Any, open_house: Callable[..., Any]) -> None:
    house = open_house(plain)  # with time for an honest body on a busy machine
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
