"""/v1/responses where something is wrong: with the request, the engine or the store."""

from __future__ import annotations

import functools
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from yardmaster.engine.messages import RequestOutput
from yardmaster.tests.server.http.responses_talk import (
    NOW,
    WEATHER,
    post,
    streamed,
    talk,
    whole,
)

CALL_ITEM = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT_ITEM = {"type": "function_call_output", "call_id": "c", "output": "x"}
USER = {"role": "user", "content": "x"}
IMAGE = {"type": "input_image", "image_url": "http://x"}
UNKNOWN = {"type": "function", "name": "x"}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [UNKNOWN]}
VALUE, MISSING, UNSUPPORTED = "invalid_value", "missing_required_parameter", "unsupported_parameter"
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", MISSING),
    ({"input": []}, "input", MISSING),
    ({"input": 5}, "input", VALUE),
    ({"input": [5]}, "input[0]", VALUE),
    ({"input": [{}]}, "input[0].id", MISSING),
    ({"input": [USER, {"type": "web_search_call"}]}, "input[1]", VALUE),
    ({"input": [{"type": {"a": 1}}]}, "input[0]", VALUE),
    ({"input": [USER | {"type": "message", "role": "tool"}]}, "input[0].role", VALUE),
    ({"input": [{"role": "user"}]}, "input[0].content", MISSING),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].type", UNSUPPORTED),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]", MISSING),
    ({"input": [RESULT_ITEM]}, "input[0].call_id", VALUE),
    ({"input": [RESULT_ITEM, CALL_ITEM]}, "input[0].call_id", VALUE),
    ({"input": [CALL_ITEM, RESULT_ITEM | {"output": [IMAGE]}]}, "input[1].output[0].type", UNSUPPORTED),
    ({"input": [CALL_ITEM | {"name": "a b"}]}, "input[0].name", VALUE),
    ({"input": [CALL_ITEM | {"call_id": str(number)} for number in range(200)]}, "input", VALUE),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id", "item_not_found"),
    ({"input": "x" * 200_000}, "input", "context_length_exceeded"),
    ({"input": [USER] * 4097}, "input", VALUE),
    ({"max_output_tokens": 5000}, "input", "context_length_exceeded"),
    ({"max_output_tokens": 0}, "max_output_tokens", VALUE),
    ({"model": "other"}, "model", "model_not_found"),
    ({"foo": 1}, "foo", "unknown_parameter"),
    ({"x" * 100: 1}, "?", "unknown_parameter"),
    ({"messages": []}, "messages", UNSUPPORTED),
    ({"response_format": {"type": "text"}}, "response_format", UNSUPPORTED),
    ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
    ({"prompt": {"id": "p"}}, "prompt", UNSUPPORTED),
    ({"truncation": "auto"}, "truncation", VALUE),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", VALUE),
    ({"tools": [NOW | {"name": "a b"}]}, "tools[0].name", VALUE),
    ({"tools": [NOW] * 129}, "tools", VALUE),
    ({"tool_choice": "auto"}, "tool_choice", VALUE),
    ({"tools": [NOW], "tool_choice": UNKNOWN}, "tool_choice.name", VALUE),
    ({"tools": [NOW], "tool_choice": ALLOWED}, "tool_choice.tools[0].name", VALUE),
    ({"reasoning": {"effort": "minimal"}}, "reasoning.effort", VALUE),
    ({"text": {"verbosity": "low"}}, "text.verbosity", VALUE),
    ({"text": {"format": {"type": "yaml"}}}, "text.format", VALUE),
    ({"include": ["everything"]}, "include[0]", VALUE),
    ({"top_logprobs": 2}, "top_logprobs", VALUE),
    ({"stream_options": {}}, "stream_options", VALUE),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", VALUE),
    ({"metadata": {"a": 1}}, "metadata.a", VALUE),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata", VALUE),
    ({"background": True, "store": False}, "store", VALUE),
    ({"previous_response_id": ""}, "previous_response_id", VALUE),
    ({"temperature": "1"}, "temperature", VALUE),
]


@pytest.mark.parametrize(("body", "param", "code"), WRONG)
def test_what_is_wrong_is_named(harmony: Any, body: dict[str, Any], param: str, code: str) -> None:
    response = post(harmony, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (404 if param == "model" else 400, param, code)
    assert error["message"].startswith((f"{param}: ", "This "))
    assert "messages" not in error["message"] or param == "messages"
    assert harmony.engine.submitted == []


def test_allowed_tools(harmony: Any) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}
    resource = whole(harmony, {"tools": [WEATHER, NOW], "tool_choice": choice})
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[0].prompt_token_ids, False)
    assert "type now" in prompt
    assert "get_weather" not in prompt
    assert resource["tool_choice"] == choice
    assert len(resource["tools"]) == 2


def test_numbers_beyond_64_bits_in_a_schema(harmony: Any) -> None:
    parameters = '{"type": "object", "properties": {"n": {"maximum": 1' + "0" * 40 + ', "minimum": -1e999}}}'

    async def say(client: httpx.AsyncClient, raw: str) -> httpx.Response:
        return await client.post("/responses", content=raw, headers={"content-type": "application/json"})

    for stream in ("true", "false"):
        tool = f'{{"type": "function", "name": "f", "parameters": {parameters}}}'
        raw = f'{{"input": "hi", "stream": {stream}, "tools": [{tool}]}}'
        response = talk(harmony.app(), functools.partial(say, raw=raw))
        assert response.status_code == 200
        assert str(10**40) in response.text
        assert "Infinity" not in response.text


def test_an_engine_that_fails(harmony: Any) -> None:
    def script(submit: Any) -> Any:
        yield from list(harmony.say("<|channel|>final<|message|>He", finish="length")(submit))[:-1]
        yield harmony.EngineDead("x")

    harmony.engine.script = script
    assert post(harmony, {}).status_code == 503

    async def say(client: httpx.AsyncClient) -> None:
        events = streamed(await client.post("/responses", json={"input": "hi", "stream": True}))
        assert events[-1]["type"] == "response.failed"
        resource = events[-1]["response"]
        assert (resource["status"], resource["error"]["code"]) == ("failed", "server_error")
        assert [item["status"] for item in resource["output"]] == ["incomplete"]
        assert (await client.get(f"/responses/{resource['id']}")).json() == resource

    talk(harmony.app(), say)
    harmony.engine.refuse = harmony.EngineOverloaded("full", 3)
    for fields in ({}, {"stream": True}, {"background": True}):
        response = post(harmony, fields)
        assert (response.status_code, response.headers["retry-after"]) == (503, "3")


def test_an_engine_that_refuses_a_schema(harmony: Any) -> None:
    refusal = "it has too many states"
    harmony.engine.script = lambda submit: [
        RequestOutput(request_id=submit.request_id, finish_reason="error", error=refusal, refused=True)
    ]
    fields: dict[str, Any] = {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}}
    response = post(harmony, fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "text.format.schema")
    resource = streamed(post(harmony, fields | {"stream": True}))[-1]["response"]
    error = {"code": "invalid_prompt", "message": f"text.format.schema: {refusal}"}
    assert (resource["status"], resource["error"]) == ("failed", error)


def test_a_store_that_fails(harmony: Any, tmp_path: Path) -> None:
    """The answer is given all the same, and says that it is not kept."""
    path = tmp_path / "responses.sqlite"
    app = harmony.app(response_store=str(path))
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE items")

    async def say(client: httpx.AsyncClient) -> None:
        resource = (await client.post("/responses", json={"input": "hi"})).json()
        assert (resource["status"], resource["store"]) == ("completed", False)
        resource = streamed(await client.post("/responses", json={"input": "hi", "stream": True}))[-1]["response"]
        assert (resource["status"], resource["store"]) == ("completed", False)
        harmony.engine.script = harmony.say("word " * 500, pause=0.01)
        answer = await client.post("/responses", json={"input": "hi", "background": True})
        assert answer.status_code == 500
        assert harmony.engine.aborted == [harmony.engine.submitted[-1].request_id]

    talk(app, say)
