"""/v1/files over a real socket: what is taken, and hostile uploads."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from yardmaster.tests.server.http.batch_server import (
    CHAT,
    Served,
    jsonl,
    line,
    sdk,
)

BROKEN = [
    (b'{"custom_id": "b"}\n', "missing_required_parameter", "line 2: method"),
    (jsonl(line("a")), "duplicate_custom_id", "line 2: custom_id"),
    (jsonl(line("b", stream=True)), "invalid_value", "line 2: body.stream"),
    (jsonl(line("b", "/v1/embeddings")), "invalid_url", "line 2: url"),
    (b'{"custom_id": "\xff"}\n', "invalid_utf8", "line 2"),
    (b"{" * 5000 + b"\n", "invalid_json_line", "line 2"),
    (b"x" * 60_000, "line_too_long", "line 2"),
    (jsonl(line("b"), line("c"), line("d")), "too_many_lines", "line 4"),
]


@pytest.fixture
def small(serve: Any) -> Served:
    return serve(max_file_bytes=100_000, max_line_bytes=50_000, max_lines=3)


def test_a_broken_file_is_refused_by_line_and_field(small: Served) -> None:
    client = sdk(small)
    for second, code, place in BROKEN:
        with pytest.raises(openai.BadRequestError) as refusal:
            client.files.create(file=jsonl(line("a")) + second, purpose="batch")
        assert (refusal.value.code, refusal.value.param) == (code, "file")
        assert f"file: {place}" in refusal.value.message
        assert nothing_left(small)


def nothing_left(served: Served) -> bool:
    folder = Path(served.config.batch.directory)
    return not [*(folder / "files").iterdir(), *(folder / "uploads").iterdir()]


def test_an_upload_may_have_so_many_bytes(small: Served) -> None:
    client, pad = sdk(small), jsonl(line("a"), line("b"), line("c"))
    fits = pad + b" " * 49_999 + b"\n" + b" " * (100_000 - len(pad) - 50_000)
    assert client.files.create(file=fits, purpose="batch").bytes == 100_000
    with pytest.raises(openai.APIStatusError) as refusal:
        client.files.create(file=fits + b" ", purpose="batch")
    assert (refusal.value.status_code, refusal.value.code) == (413, "request_too_large")

    def endless(head: bytes, more: bytes) -> Iterator[bytes]:
        yield head
        while True:
            yield more

    headers = {"content-type": "multipart/form-data; boundary=x"}
    for head, more in (
        (b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n', b" " * 10_000),
        (b"--x\r\n", b"a: b\r\n" * 1000),
        (b"--x\r\nname: ", b"b" * 10_000),
        (b"--x--\r\n", b" " * 10_000),
    ):
        try:
            answer = httpx.post(small.url + "/v1/files", content=endless(head, more), headers=headers, timeout=10)
            assert answer.status_code in (400, 413)
        except httpx.TimeoutException:
            raise
        except httpx.TransportError:  # it may also be cut off amid its sending
            pass
    assert httpx.get(small.url + "/health").status_code == 200


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    return (
        b"".join(b"--x\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts)
        + end
    )


FILE = ('form-data; name="file"; filename="in.jsonl"', jsonl(line("a")))
PURPOSE = ('form-data; name="purpose"', b"batch")
FORMS: list[tuple[bytes, int, str | None]] = [
    (form(FILE, PURPOSE), 200, None),
    (form(PURPOSE, FILE, ('form-data; name="other"', b"\xff")), 200, None),
    (form(FILE), 400, "purpose"),
    (form(PURPOSE), 400, "file"),
    (form(FILE, ('form-data; name="purpose"', b"fine-tune")), 400, "purpose"),
    (form(FILE, ('form-data; name="purpose"', b"x" * 5000)), 400, "purpose"),
    (form(('form-data; name="file"', FILE[1]), PURPOSE), 400, "file"),
    *(
        (form((f'form-data; name="file"; filename="{name}"', FILE[1]), PURPOSE), 400, "file")
        for name in ("../../etc/passwd", "..", "/etc/passwd", "a\\\\b", "", "x" * 256, "a\x00b", "a\x1b[2J")
    ),
    (form(FILE, FILE, PURPOSE), 400, "file"),
    (form(FILE, PURPOSE, PURPOSE), 400, "purpose"),
    (form(FILE, PURPOSE, *[(f'form-data; name="f{i}"', b"") for i in range(7)]), 400, None),
    (form(("form-data", b""), FILE, PURPOSE), 400, None),
    (form(('attachment; name="file"; filename="f"', b""), PURPOSE), 400, None),
    (form(FILE, PURPOSE, end=b""), 400, None),
    (form(FILE, PURPOSE)[:-40], 400, None),
    (b"", 400, None),
    (b"--y\r\n\r\n--y--", 400, None),
    (b"\x00\xff" * 500, 400, None),
    (b"--x\r\n" + b"A" * 100_000, 400, None),
    (form(FILE, PURPOSE, ('form-data; name="expires_after[seconds]"', b"7200")), 400, "expires_after[anchor]"),
    *(
        (
            form(
                FILE,
                PURPOSE,
                ('form-data; name="expires_after[anchor]"', b"created_at"),
                ('form-data; name="expires_after[seconds]"', seconds),
            ),
            400,
            "expires_after[seconds]",
        )
        for seconds in (b"3599", b"2592001", b"-7200", b"1e5", b"", "٣٦٠٠".encode(), b"9" * 900)
    ),
]


def test_forms(serve: Any) -> None:
    served = serve()
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body, status, param in FORMS:
        answer = httpx.post(served.url + "/v1/files", content=body, headers=headers)
        assert answer.status_code == status, (body[:300], answer.text)
        if status == 200:
            httpx.delete(f"{served.url}/v1/files/{answer.json()['id']}")
        else:
            assert answer.json()["error"]["param"] == param, body[:300]
        assert nothing_left(served)


def test_no_bytes_of_a_form_make_it_fail(serve: Any) -> None:
    draw, whole = random.Random(7), form(FILE, PURPOSE, ('form-data; name="other"', b"x"))
    served = serve()
    headers = {"content-type": "multipart/form-data; boundary=x"}
    with httpx.Client(base_url=served.url, headers=headers) as client:
        for _ in range(60):
            body = bytearray(whole)
            for _ in range(draw.randrange(1, 6)):
                at = draw.randrange(len(body))
                act = draw.randrange(4)
                if act == 0:
                    body[at] = draw.randrange(256)
                elif act == 1:
                    del body[at : at + draw.randrange(20)]
                elif act == 2:
                    body[at:at] = draw.choice([b"--x", b"\r\n", b'"', b"\x00", b";", b"--x--\r\n"])
                else:
                    body += body[at:]
            assert client.post("/v1/files", content=bytes(body)).status_code in (200, 400)


def test_uploads_of_other_kinds(serve: Any) -> None:
    served = serve()
    url, kind = served.url + "/v1/files", {"content-type": "multipart/form-data; boundary=x"}
    for headers in (
        {},
        {"content-type": "application/json"},
        {"content-type": "multipart/form-data"},
        {**kind, "content-encoding": "gzip"},
    ):
        assert httpx.post(url, content=form(FILE, PURPOSE), headers=headers).status_code == 415
    # A page of somebody else's, in this machine's browser.
    foreign = httpx.post(url, content=form(FILE, PURPOSE), headers={**kind, "origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "cross_origin")
    same = httpx.post(url, content=form(FILE, PURPOSE), headers={**kind, "origin": served.url})
    assert same.status_code == 200

    def slow() -> Iterator[bytes]:
        yield form(FILE, PURPOSE)[:50]
        time.sleep(1)
        yield b"x"

    impatient = serve(http={"body_timeout": 0.3})
    assert httpx.post(impatient.url + "/v1/files", content=slow(), headers=kind).status_code == 408
    for field in (
        {"endpoint": "/v1/embeddings"},
        {"completion_window": "1h"},
        {"input_file_id": 3},
        {"metadata": {"a": 1}},
    ):
        body = {"input_file_id": same.json()["id"], "endpoint": CHAT, "completion_window": "24h"} | field
        answer = httpx.post(served.url + "/v1/batches", json=body)
        assert (answer.status_code, answer.json()["error"]["param"].partition(".")[0]) == (400, next(iter(field)))


def test_queries_and_ids_that_are_none(serve: Any) -> None:
    served = serve()
    for path, status in (
        ("/v1/files?limit=0", 400),
        ("/v1/files?limit=x", 400),
        ("/v1/files?limit=10001", 400),
        ("/v1/files?limit=²", 400),
        ("/v1/files?order=up", 400),
        ("/v1/files?after=file-1", 404),
        ("/v1/batches?limit=101", 400),
        ("/v1/batches?after=batch_1", 404),
        ("/v1/files/..%2f..%2fbatches.sqlite/content", 404),
        ("/v1/files/batches.sqlite/content", 404),
        ("/v1/files/%00", 404),
        ("/v1/batches/batch_1", 404),
        ("/v1/files/file-" + "0" * 32, 404),
    ):
        answer = httpx.get(served.url + path)
        assert answer.status_code == status, path
        assert answer.json()["error"]["message"]
    assert httpx.post(served.url + "/v1/batches/batch_1/cancel").status_code == 404
    assert httpx.delete(served.url + "/v1/files/x").status_code == 404
    assert httpx.get(served.url + "/v1/files").json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
