"""A client of the ASGI application, and the events of a stream as it reads them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx


def talk(app: Any, say: Callable[[httpx.AsyncClient], Awaitable[Any]], **headers: str) -> Any:
    """Several requests to one application on one event loop."""

    async def go() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return await say(client)

    return anyio.run(go)


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream. A name that an event has is its type; nothing follows [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    found = []
    for block in blocks:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(lines) <= {"event", "data"}
        if lines["data"] == "[DONE]":
            assert block is blocks[-1]
            assert "event" not in lines
            break
        found.append(json.loads(lines["data"]))
        assert "event" not in lines or lines["event"] == found[-1]["type"]
    return found
