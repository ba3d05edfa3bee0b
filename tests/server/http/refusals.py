"""What a refused request looks like."""

from __future__ import annotations

from typing import Any

import anyio
import httpx

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]
JSON = {"content-type": "application/json"}


def send(app: Any, method: str, path: str, **extra: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **extra)

    return anyio.run(go)


def refused(response: httpx.Response, status: int, code: str | None, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    return error["message"]
