"""What the tests of /v1/responses say and read: answers whole and streamed, held against the SDK's types."""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

THOUGHT = "<|channel|>analysis<|message|>Think é🙂<|end|><|start|>assistant"
ANSWER = THOUGHT + "<|channel|>final<|message|>Hello wörld🙂"
CALL = (
    f"{THOUGHT}<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Zürich"}'
)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
NOW = {"type": "function", "name": "now"}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]


def talk(app: Any, say: Talk, key: str | None = None) -> Any:
    """Several requests to one application on one event loop."""

    async def go() -> Any:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test/v1", headers=headers) as client:
            return await say(client)

    return anyio.run(go)


def post(stage: Any, body: Any, path: str = "/responses", **config: Any) -> httpx.Response:
    async def say(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(path, json={"input": "hi"} | body if isinstance(body, dict) else body)

    answer: httpx.Response = talk(stage.app(**config), say)
    return answer


def whole(stage: Any, body: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    response = post(stage, body or {}, **config)
    assert response.status_code == 200, response.text
    resource: dict[str, Any] = response.json()
    Response.model_validate(resource)
    return resource


def streamed(response: httpx.Response, first: int = 0) -> list[dict[str, Any]]:
    """The events of a stream, each held against the SDK's own types and against its number."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    events = []
    for number, block in enumerate(blocks[:-2], first):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        known = EVENTS.validate_python(event)
        assert known.type == event["type"]
        assert not set(event) - set(type(known).model_fields) - {"name"}
        events.append(event)
    return events


def rebuilt(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a client makes of the deltas; on the way, the order in which events may come is checked."""
    output: list[dict[str, Any]] = []
    text: str | None = None  # of the part or the arguments that are open
    part = False
    for event in copy.deepcopy(events):
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            assert text is None
            output.append(event["item"])
            assert event["item"]["status"] == "in_progress"
            if event["item"]["type"] == "function_call":
                assert event["item"]["arguments"] == ""
                text = ""
            else:
                assert event["item"]["content"] == []
        elif kind in ("created", "queued", "in_progress", "completed", "incomplete", "failed"):
            assert text is None
        else:
            assert event["output_index"] == len(output) - 1
            if "item_id" in event:
                assert event["item_id"] == output[-1]["id"]
            if kind == "content_part.added":
                assert text is None
                text, part = "", True
            elif kind.endswith(".delta"):
                assert text is not None
                assert event["delta"]
                text += event["delta"]
            elif kind in ("output_text.done", "reasoning_text.done"):
                assert event["text"] == text
            elif kind == "function_call_arguments.done":
                assert event["arguments"] == text
                output[-1]["arguments"], text = text, None
            elif kind == "content_part.done":
                assert event["part"]["text"] == text
                output[-1]["content"].append(event["part"])
                text, part = None, False
            else:
                assert kind == "output_item.done"
                assert not part
                assert text is None
                assert event["item"] == output[-1] | {"status": event["item"]["status"]} | {
                    name: event["item"][name] for name in ("encrypted_content",) if name in event["item"]
                }
                output[-1] = event["item"]
    return output


def bare(output: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Without what is drawn at random."""
    found: list[tuple[Any, ...]] = []
    for item in output:
        if item["type"] == "function_call":
            assert item["id"].startswith("fc_")
            assert item["call_id"].startswith("call_")
            found.append(("call", item["name"], item["arguments"], item["status"]))
        else:
            kind = item.get("phase", item["type"])
            found.append((kind, "".join(part["text"] for part in item["content"]), item["status"]))
    return found
