"""How long an upload may take and whose it may be, without a socket."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import Request

from yardmaster.server.http import upload
from yardmaster.server.http.errors import ApiError
from yardmaster.server.http.files import MAX_UPLOADS, _place

HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
FORM = HEAD + b"{}\r\n--x--\r\n"
MIB = 1 << 20


async def whole() -> AsyncIterator[bytes]:
    yield FORM


def sent(
    source: Callable[[], AsyncIterator[bytes]] = whole, patience: float = 60.0, max_bytes: int = MIB, **headers: str
) -> upload.Upload:
    headers = {"host": "127.0.0.1:8000", "content-type": "multipart/form-data; boundary=x"} | headers
    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}

    async def go() -> upload.Upload:
        chunks = source()

        async def receive() -> dict[str, Any]:
            chunk = await anext(chunks, None)
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

        return await upload.receive(Request(scope, receive), io.BytesIO(), max_bytes, patience)

    return asyncio.run(go())


@pytest.mark.parametrize("origin", ["https://evil.example", "http://[", "http://[::1", "null", "http://a]b", ""])
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(ApiError) as refusal:
        sent(origin=origin)
    assert (refusal.value.status, refusal.value.code) == (403, "cross_origin")


def test_our_own_page_may_upload() -> None:
    assert sent(origin="http://127.0.0.1:8000").size == sent().size == 2


def test_what_only_trickles_is_cut_off() -> None:
    """It never pauses for long, and the whole of the largest file would have hours."""

    async def trickle() -> AsyncIterator[bytes]:
        yield HEAD
        while True:
            await asyncio.sleep(0.02)
            yield b" "

    begun = time.monotonic()
    with pytest.raises(ApiError) as refusal:
        sent(trickle, patience=0.2, max_bytes=1 << 30)
    assert refusal.value.status == 408
    assert time.monotonic() - begun < 5


def test_what_comes_fast_enough_may_pause() -> None:
    async def paused() -> AsyncIterator[bytes]:
        yield HEAD + b" " * 16_000  # a second's worth
        for _ in range(4):
            await asyncio.sleep(0.15)
            yield b" "
        yield b"\r\n--x--\r\n"

    assert sent(paused, patience=0.3).size == 16_004


def test_nobody_waits_for_ever_for_a_place() -> None:
    async def go() -> None:
        slots = asyncio.Semaphore(1)
        async with _place(slots, 1.0):
            with pytest.raises(ApiError) as refusal:
                async with _place(slots, 0.02):
                    raise AssertionError
            assert (refusal.value.status, refusal.value.code) == (503, "server_busy")
            assert refusal.value.headers["retry-after"]
            assert str(MAX_UPLOADS) in refusal.value.message
        async with _place(slots, 0.02):
            pass

    asyncio.run(go())
