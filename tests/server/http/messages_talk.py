"""What the tests of /v1/messages send and read: whole messages, and streams put together again."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO = [{"role": "user", "content": "hi"}]
BODY: dict[str, Any] = {"model": "test-model", "max_tokens": 1000, "messages": HELLO}
WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
NOW = {"name": "now", "input_schema": {"type": "object", "properties": {}}}
TOOLS = {"tools": [WEATHER, NOW]}
FINAL = "<|channel|>final<|message|>"


def send(app: Any, body: Any, path: str = PATH, method: str = "POST", **extra: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            content = {} if body is None else {"json": body}
            return await client.request(method, path, **content, **extra)

    return anyio.run(go)


def whole(stage: Any, body: dict[str, Any] | None = None) -> dict[str, Any]:
    response = send(stage.app(), BODY | (body or {}))
    assert response.status_code == 200, response.text
    message: dict[str, Any] = response.json()
    return message


def parsed(text: str) -> list[dict[str, Any]]:
    blocks = text.split("\n\n")
    assert blocks[-1] == ""
    events = []
    for block in blocks[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def streamed(stage: Any, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    response = send(stage.app(), BODY | {"stream": True} | (body or {}))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return parsed(response.text)


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of the events; holds them to Anthropic's order."""
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    message: dict[str, Any] = events[0]["message"]
    assert message["content"] == []
    assert message["stop_reason"] is message["stop_sequence"] is None
    blocks, open_at, inputs = message["content"], None, ""
    for event in events[1:-2]:
        match event["type"]:
            case "ping":
                continue
            case "content_block_start":
                assert open_at is None
                assert event["index"] == len(blocks)
                open_at, inputs = event["index"], ""
                blocks.append(event["content_block"])
            case "content_block_stop":
                assert event["index"] == open_at
                if blocks[-1]["type"] == "tool_use":
                    blocks[-1]["input"] = json.loads(inputs)
                open_at = None
            case "content_block_delta":
                assert event["index"] == open_at
                delta = dict(event["delta"])
                assert (
                    delta.pop("type")
                    in {
                        "text": ("text_delta",),
                        "thinking": ("thinking_delta", "signature_delta"),
                        "tool_use": ("input_json_delta",),
                    }[blocks[-1]["type"]]
                )
                ((name, text),) = delta.items()
                assert text
                if name == "partial_json":
                    inputs += text
                else:
                    blocks[-1][name] += text
            case other:
                raise AssertionError(other)
    assert open_at is None
    return message | events[-2]["delta"] | {"usage": events[-2]["usage"]}


def bare(message: dict[str, Any]) -> dict[str, Any]:
    """Less what is drawn at random."""
    for block in message["content"]:
        if block["type"] == "tool_use":
            assert block.pop("id").startswith("toolu_")
    assert message["id"].startswith("msg_")
    return {name: value for name, value in message.items() if name != "id"}


def blocks(stage: Any, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The answer's, which must be the same whole and streamed."""
    message = bare(whole(stage, body))
    assert bare(accumulated(streamed(stage, body))) == message
    content: list[dict[str, Any]] = message["content"]
    return content


def prompt(stage: Any, at: int = -1) -> str:
    text: str = stage.tokenizer.decode(stage.engine.submitted[at].prompt_token_ids, False)
    return text


def refused(response: httpx.Response, status: int, kind: str, message: str = "") -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    body: dict[str, Any] = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert set(body["error"]) - {"details"} == {"type", "message"}
    assert body["error"]["type"] == kind
    assert message in body["error"]["message"]
    assert body["error"]["message"]
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return body
