"""Who reads slower than the engine writes gets fewer and larger events, and nothing piles up but the answer itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from yardmaster.engine.messages import RequestOutput

TOKENS = 3000
WORDS = "hello wörld 🙂 "


class Reader:
    """An ASGI client that takes the head of an answer and then nothing until `open` is set."""

    def __init__(self, body: dict[str, Any], hold_after: int) -> None:
        self.blocks: list[bytes] = []
        self.waiting = asyncio.Event()  # a send that this client does not take
        self.open = asyncio.Event()
        self._body: bytes | None = json.dumps(body).encode()
        self._hold_after = hold_after

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            self.blocks.append(message["body"])
            if len(self.blocks) > self._hold_after:
                self.waiting.set()
                await self.open.wait()

    @property
    def chunks(self) -> list[Any]:
        events = b"".join(self.blocks).decode().strip().split("\n\n")
        assert events.pop() == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]


def scope(path: str) -> dict[str, Any]:
    headers = [(b"content-type", b"application/json"), (b"host", b"x")]
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2), "root_path": "",
    }  # fmt: skip


@pytest.mark.parametrize("hold_after", [0, 2])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_is_behind_gets_what_it_missed_at_once(plain: Any, hold_after: int, n: int) -> None:
    ids = (plain.ids(WORDS) * TOKENS)[:TOKENS]
    played = 0

    def script(submit: Any) -> Iterator[RequestOutput]:
        nonlocal played
        for place, token in enumerate(ids):
            played += 1
            reason: Any = "length" if place == TOKENS - 1 else None
            yield RequestOutput(request_id=submit.request_id, token_ids=[token], finish_reason=reason)

    plain.engine.script = script
    app = plain.app()

    async def run() -> Reader:
        body = {"prompt": "x", "stream": True, "n": n, "max_tokens": TOKENS, "stream_options": {"include_usage": True}}
        reader = Reader(body, hold_after)
        answering = asyncio.create_task(app(scope("/v1/completions"), reader.receive, reader.send))
        await asyncio.wait_for(reader.waiting.wait(), 10)
        async with asyncio.timeout(10):
            while played < n * TOKENS:  # the engine runs on, whoever reads
                await asyncio.sleep(0.01)
        assert len(reader.blocks) == hold_after + 1  # and all that is worded and not taken is one block
        reader.open.set()
        await asyncio.wait_for(answering, 10)
        return reader

    reader = asyncio.run(run())
    assert len(reader.blocks) <= hold_after + 3
    chunks = reader.chunks
    text = plain.tokenizer.decode(ids)
    for index in range(n):
        mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert "".join(choice["text"] for choice in mine) == text
        assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == ["length"]
        assert len(mine) <= hold_after + 3
    assert chunks[-1]["usage"]["completion_tokens"] == n * TOKENS


def test_a_client_that_keeps_up_gets_every_token_by_itself(plain: Any) -> None:
    """What the count above is to be held against."""
    ids = (plain.ids("hello world ") * 100)[:100]

    def script(submit: Any) -> Iterator[RequestOutput | float]:
        for place, token in enumerate(ids):
            yield 0.0
            yield 0.0
            yield 0.0
            yield 0.0
            reason: Any = "length" if place == len(ids) - 1 else None
            yield RequestOutput(request_id=submit.request_id, token_ids=[token], finish_reason=reason)

    plain.engine.script = script
    app = plain.app()

    async def run() -> Reader:
        reader = Reader({"prompt": "x", "stream": True, "max_tokens": 100}, 1000)
        await asyncio.wait_for(app(scope("/v1/completions"), reader.receive, reader.send), 10)
        return reader

    assert len(asyncio.run(run()).chunks) >= 95
