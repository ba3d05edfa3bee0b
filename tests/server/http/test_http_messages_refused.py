"""/v1/messages where something is wrong, in Anthropic's form: the request, the key, the engine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.engine.messages import RequestOutput
from yardmaster.server.messages.door import AnthropicDoor
from yardmaster.tests.server.http.messages_talk import (
    BODY,
    COUNT,
    FINAL,
    HELLO,
    NOW,
    PATH,
    TOOLS,
    WEATHER,
    accumulated,
    refused,
    send,
    streamed,
)

KEY = "sk-secret-0123456789"
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def user(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": None}, "messages: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role: "),
        ({"messages": [{"role": "user"}]}, "messages[0].content: "),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content: must not be empty"),
        ({"messages": [*HELLO, {"role": "user", "content": []}]}, "messages[1].content: must not be empty"),
        (user({"type": "text", "text": 5}), "messages[0].content[0].text: "),
        (user({"type": "text"}), "messages[0].content[0].text: "),
        (user({"text": "x"}), "messages[0].content[0].type: "),
        (user("x"), "messages[0].content[0]"),
        (user(IMAGE), "messages[0].content[0]: this model takes text only; blocks of type 'image'"),
        (user({"type": "document"}), "'document'"),
        (user({"type": "thinking", "thinking": "x"}), "'thinking' do not belong here"),
        (user({"type": "tool_result", "tool_use_id": "x"}), "messages[0].content[0].tool_use_id: no tool_use"),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "'image'"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "x"}]}]}, "belong"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "messages: they hold nothing"),
        (
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "now", "input": {}}]},
                ]
            },
            "messages[1].content: the result of its tool_use must follow",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "a b", "input": {}}]}
                ]
            },
            "name: ",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "a", "input": "{}"}]}
                ]
            },
            "input: ",
        ),
        ({"system": [IMAGE]}, "system[0]: "),
        ({"system": 5}, "system: "),
        ({"tools": [{"name": "x y", "input_schema": {}}]}, "tools[0].name: "),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema: "),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: "),
        ({"tools": [{**NOW, "defer_loading": True}]}, "tools[0].defer_loading: "),
        ({"tool_choice": {"type": "any"}}, "tool_choice: goes with tools only"),
        ({"tool_choice": {"type": "tool"}, **TOOLS}, "tool_choice.name: "),
        ({"tool_choice": {"type": "auto", "name": "now"}, **TOOLS}, "tool_choice.name: "),
        ({"tool_choice": {"type": "tool", "name": "x"}, **TOOLS}, "tool_choice.name: is none of the tools"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: Field required"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens: "),
        ({"thinking": {"type": "adaptive", "budget_tokens": 2000}}, "thinking.budget_tokens: "),
        ({"container": "c"}, "container: this server does not support it"),
        ({"mcp_servers": [{}]}, "mcp_servers: "),
        ({"model": None}, "model: "),
    ],
)
def test_what_cannot_be_served_is_named(harmony: Any, path: str, fields: dict[str, Any], message: str) -> None:
    refused(send(harmony.app(), BODY | fields, path), 400, "invalid_request_error", message)
    assert harmony.engine.submitted == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": None}, "max_tokens: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": "5"}, "max_tokens: "),
        ({"temperature": -1}, "temperature: "),
        ({"top_p": 0}, "top_p: "),
        ({"top_k": -1}, "top_k: "),
        ({"stop_sequences": [""]}, "stop_sequences[0]: "),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences: "),
        ({"stop_sequences": "x"}, "stop_sequences: "),
        ({"stream": 1}, "stream: "),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000 + 24}, "max_tokens": 1024}, "less than max_tokens"),
    ],
)
def test_bounds(harmony: Any, fields: dict[str, Any], message: str) -> None:
    refused(send(harmony.app(), BODY | fields), 400, "invalid_request_error", message)


def test_bodies_routes_and_models(harmony: Any) -> None:
    app = harmony.app(max_body_bytes=10_000)
    refused(send(app, None, content=b"{", headers={"content-type": "application/json"}), 400, "invalid_request_error")
    refused(send(app, None, content=b"{}", headers={"content-type": "text/plain"}), 415, "invalid_request_error")
    refused(send(app, BODY | {"x": "x" * 10_000}), 413, "request_too_large")
    refused(send(app, BODY | {"model": "other"}), 404, "not_found_error", "does not serve that model")
    refused(send(app, None, method="GET"), 405, "invalid_request_error")
    refused(send(app, {}, f"{PATH}/batches"), 404, "not_found_error")
    assert send(app, {}, "/v1/messagesx").json()["error"]["code"] == "unknown_url"
    refused(send(app, BODY, headers={"x": "y" * 40_000}), 431, "invalid_request_error")


def test_keys(harmony: Any) -> None:
    app = harmony.app(api_keys=(KEY,))
    for headers in (
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"Bearer {KEY}", "x-api-key": "other"},
        {"x-api-key": KEY, "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"},
    ):
        assert send(app, BODY, headers=headers).status_code == 200
    for wrong in ({}, {"x-api-key": ""}, {"x-api-key": "x" * 20}, {"authorization": "Bearer x", "x-api-key": KEY}):
        refused(send(app, BODY, headers=wrong), 401, "authentication_error", "x-api-key")
    twice = [("x-api-key", KEY), ("x-api-key", KEY)]
    refused(send(app, BODY, headers=twice), 401, "authentication_error")
    assert send(app, {"messages": HELLO}, "/v1/chat/completions", headers={"x-api-key": KEY}).status_code == 401


def test_the_engines_troubles(harmony: Any) -> None:
    app = harmony.app()
    harmony.engine.refuse = harmony.EngineOverloaded("full", 3)
    response = send(app, BODY)
    refused(response, 529, "overloaded_error", "try again")
    assert response.headers["retry-after"] == "3"
    harmony.engine.refuse = None
    harmony.engine.ready = False
    refused(send(app, BODY), 529, "overloaded_error", "loading")
    refused(send(app, BODY, COUNT), 529, "overloaded_error", "loading")
    harmony.engine.ready = True
    harmony.engine.script = lambda submit: [harmony.EngineDead("x")]
    refused(send(app, BODY), 503, "api_error")
    harmony.engine.script = lambda submit: [ValueError("secret")]
    assert "secret" not in str(refused(send(app, BODY), 500, "api_error"))
    harmony.engine.dead = "x"
    refused(send(app, BODY), 503, "api_error")


def test_an_error_amid_a_stream_is_its_last_event(harmony: Any) -> None:
    said = harmony.say(f"{FINAL}abc", finish="length")

    def script(submit: Any) -> Any:
        yield from list(said(submit))[:-2]
        yield harmony.EngineDead("x")

    harmony.engine.script = script
    events = streamed(harmony)
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "error"
    assert events[-1]["error"] == {"type": "api_error", "message": "The engine has stopped; the server's log says why."}
    assert events[-1]["request_id"]
    assert not [event for event in events if event["type"] == "message_stop"]


def test_threads_are_refused_as_the_sdk_expects(harmony: Any) -> None:
    body = refused(send(harmony.app(), BODY | {"thread": {"type": "create"}}), 400, "invalid_request_error", "thread: ")
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


def test_a_request_id_of_the_clients(harmony: Any) -> None:
    response = send(harmony.app(), BODY, headers={"x-request-id": "mine"})
    assert response.headers["request-id"] == response.headers["x-request-id"] == "mine"


def test_pings_while_nothing_comes(harmony: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yardmaster.server.messages.stream.MessageStream.ping_seconds", 0.02)
    outputs = list(harmony.say(f"{FINAL}Hello there", size=3)(harmony_submit("x")))

    def script(submit: Any) -> Any:
        for output in outputs:
            yield 0.07
            yield RequestOutput(
                request_id=submit.request_id, token_ids=output.token_ids, finish_reason=output.finish_reason
            )

    harmony.engine.script = script
    events = streamed(harmony)
    assert accumulated(events)["content"] == [{"type": "text", "text": "Hello there"}]
    assert sum(event["type"] == "ping" for event in events) > len(outputs)


def harmony_submit(identity: str) -> Any:
    class Asked:
        request_id = identity

    return Asked()


def test_no_body_is_an_error_of_ours(harmony: Any) -> None:
    texts = st.sampled_from(["", "x", "<|end|>", "text", "image", "now", "tool", "toolu_1"])
    blocks = st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image", ""])},
        optional={
            "text": texts,
            "thinking": texts,
            "data": texts,
            "id": st.just("toolu_1"),
            "tool_use_id": st.sampled_from(["toolu_1", "toolu_2"]),
            "name": texts,
            "input": st.just({"a": [1]}) | texts,
            "content": texts | st.lists(st.fixed_dictionaries({"type": texts, "text": texts}), max_size=2),
            "is_error": st.booleans(),
        },
    )
    turns = st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system"]), "content": texts | st.lists(blocks, max_size=4)}
        ),
        max_size=4,
    )
    choices = st.fixed_dictionaries(
        {"type": st.sampled_from(["auto", "any", "tool", "none"])}, optional={"name": texts}
    )
    tools = st.lists(st.sampled_from([NOW, WEATHER, {**NOW, "strict": True}]), max_size=3)
    fields = st.fixed_dictionaries(
        {"messages": turns},
        optional={
            "tools": tools,
            "tool_choice": choices,
            "system": texts,
            "stop_sequences": st.lists(texts, max_size=2),
        },
    )
    seen = set()
    app = harmony.app()

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(fields, st.sampled_from([PATH, COUNT]))
    def check(body: dict[str, Any], path: str) -> None:
        response = send(app, BODY | body, path)
        seen.add(response.status_code)
        if response.status_code != 200:
            refused(response, 400, "invalid_request_error")

    check()
    assert seen == {200, 400}


def through_the_door(status: int, body: bytes, chunks: int = 1) -> httpx.Response:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % len(body)), (b"x-request-id", b"r"), (b"retry-after", b"7")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        size = -(-len(body) // chunks) or 1
        for at in range(0, len(body) or 1, size):
            more = at + size < len(body)
            await send({"type": "http.response.body", "body": body[at : at + size], "more_body": more})

    return send(AnthropicDoor(app), {})


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize(
    ("status", "code", "answer", "kind"),
    [
        (403, "admin_key_required", 403, "permission_error"),
        (408, "request_timeout", 408, "timeout_error"),
        (418, None, 418, "invalid_request_error"),
        (429, "rate_limit_exceeded", 429, "rate_limit_error"),
        (500, "internal_error", 500, "api_error"),
        (503, "server_busy", 529, "overloaded_error"),
        (503, "draining", 529, "overloaded_error"),
        (503, "engine_stopping", 503, "api_error"),
        (504, "deadline_exceeded", 504, "timeout_error"),
    ],
)
def test_every_refusal_is_reworded(chunks: int, status: int, code: str | None, answer: int, kind: str) -> None:
    body = json.dumps({"error": {"message": "Söme", "type": "requests", "param": None, "code": code}}).encode()
    response = through_the_door(status, body, chunks)
    assert (response.status_code, response.headers["retry-after"]) == (answer, "7")
    assert response.json() == {"type": "error", "error": {"type": kind, "message": "Söme"}, "request_id": "r"}
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"error": "text"}', b'{"detail": 1}'])
def test_what_is_no_error_of_ours_passes_as_it_is(body: bytes) -> None:
    response = through_the_door(499, body, 2)
    assert (response.status_code, response.content) == (499, body)
