"""Models that do not speak Harmony: their reasoning and calls on every route, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from llguidance import LLMatcher, LLTokenizer

from yardmaster.server.text.formats.registry import ChatFormat

HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
FORMAT = ChatFormat("hermes", "qwen3")
SAID = '<think>Hm é.</think>I look.<tool_call>{"name": "get_weather", "arguments": {"city": "Ulm"}}</tool_call>'


def post(app: Any, path: str, body: dict[str, Any]) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    return anyio.run(send)


@pytest.mark.parametrize("size", [1, 7])
def test_chat(plain: Any, size: int) -> None:
    plain.engine.script = plain.say(SAID, size=size)
    body = {"messages": HELLO, "tools": TOOLS}
    choice = post(plain.app(format=FORMAT), "/v1/chat/completions", body).json()["choices"][0]
    message = choice["message"]
    assert (message["reasoning_content"], message["content"], choice["finish_reason"]) == (
        "Hm é.",
        "I look.",
        "tool_calls",
    )
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [{"city": "Ulm"}]
    streamed = post(plain.app(format=FORMAT), "/v1/chat/completions", body | {"stream": True}).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Hm é."
    assert "".join(delta.get("content") or "" for delta in deltas) == "I look."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert json.loads("".join(call["function"].get("arguments", "") for call in calls)) == {"city": "Ulm"}


def test_messages(plain: Any) -> None:
    plain.engine.script = plain.say(SAID)
    tools = [{"name": "get_weather", "input_schema": SCHEMA}]
    body = {
        "messages": HELLO,
        "tools": tools,
        "model": "test-model",
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    answer = post(plain.app(format=FORMAT), "/v1/messages", body).json()
    assert "content" in answer, answer
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use"]
    assert answer["content"][2]["input"] == {"city": "Ulm"}
    assert answer["stop_reason"] == "tool_use"


def test_responses(plain: Any) -> None:
    plain.engine.script = plain.say(SAID)
    body = {"input": "hi", "tools": [{"type": "function", "name": "get_weather", "parameters": SCHEMA}]}
    output = post(plain.app(format=FORMAT), "/v1/responses", body).json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
    assert json.loads(output[2]["arguments"]) == {"city": "Ulm"}


CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
STRICT = SCHEMA | {"required": ["city"], "additionalProperties": False}
TWO_TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": STRICT, "strict": True}},
    {"type": "function", "function": {"name": "stop"}},
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ULM = '{"city": "Ulm"}'


def grammar_of(stage: Any, body: dict[str, Any], path: str = "/v1/chat/completions") -> str | None:
    asked = body if "input" in body else {"messages": HELLO} | body
    answer = post(stage.app(format=FORMAT), path, asked)
    assert answer.status_code == 200, answer.text
    found: str | None = stage.engine.submitted[-1].grammar
    return found


def passes(stage: Any, grammar: str | None, text: str) -> bool:
    assert grammar is not None
    spec = stage.tokenizer._path.read_text()
    guide = LLTokenizer(spec, n_vocab=stage.tokenizer.vocab_size, eos_token=[stage.eos])
    matcher = LLMatcher(guide, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = stage.ids(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def test_forced_and_strict_calls_on_every_route(plain: Any) -> None:
    flat = [{"type": "function", **tool["function"]} for tool in TWO_TOOLS]
    theirs = [
        {"name": "get_weather", "input_schema": STRICT, "strict": True},
        {"name": "stop", "input_schema": {"type": "object"}},
    ]
    anthropic = {"model": "test-model", "max_tokens": 100, "tools": theirs, "thinking": {"type": "adaptive"}}
    forced = [
        grammar_of(plain, {"tools": TWO_TOOLS, "tool_choice": "required"}),
        grammar_of(plain, {"input": "hi", "tools": flat, "tool_choice": "required"}, "/v1/responses"),
        grammar_of(plain, anthropic | {"tool_choice": {"type": "any"}}, "/v1/messages"),
    ]
    free = [
        grammar_of(plain, {"tools": TWO_TOOLS}),
        grammar_of(plain, {"input": "hi", "tools": flat}, "/v1/responses"),
        grammar_of(plain, anthropic, "/v1/messages"),
    ]
    one, two = CALL % ("get_weather", ULM), CALL % ("get_weather", ULM) + "\n" + CALL % ("stop", "{}")
    for grammar in (*forced, *free):
        for head in ("", "<think>\nwhich?</think>\n\n"):
            assert passes(plain, grammar, head + one)
            assert passes(plain, grammar, head + two)
            assert not passes(plain, grammar, head + CALL % ("get_weather", "{}"))
            assert passes(plain, grammar, head + "Well.") == (grammar in free)


def test_how_many_calls_at_once(plain: Any) -> None:
    two = CALL % ("get_weather", ULM) + "\n" + CALL % ("get_weather", ULM)
    for change, several in (
        ({"tool_choice": "required"}, True),
        ({"tool_choice": "required", "parallel_tool_calls": True}, True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, False),
        ({"parallel_tool_calls": False}, False),
        ({"tool_choice": NAMED}, False),
    ):
        assert passes(plain, grammar_of(plain, {"tools": TWO_TOOLS} | change), two) == several, change


@pytest.mark.parametrize("size", [1, 1000])
def test_several_forced_calls_reach_the_client(plain: Any, size: int) -> None:
    said = CALL % ("get_weather", ULM) + "\n" + CALL % ("stop", "{}")
    plain.engine.script = plain.say(said, size=size)
    body = {"messages": HELLO, "tools": TWO_TOOLS, "tool_choice": "required"}
    choice = post(plain.app(format=FORMAT), "/v1/chat/completions", body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["get_weather", "stop"]
    assert choice["message"]["content"] is None


def test_reasoning_before_a_form(plain: Any) -> None:
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": STRICT}}}
    flat = {"type": "json_schema", "name": "x", "schema": STRICT}
    grammars = [
        grammar_of(plain, asked),
        grammar_of(plain, {"structured_outputs": {"json": STRICT}}),
        grammar_of(plain, {"input": "hi", "text": {"format": flat}}, "/v1/responses"),
    ]
    thought = "<think>\nhm, {}</think>\n\n"
    for grammar in grammars:
        assert passes(plain, grammar, thought + ULM)
        assert passes(plain, grammar, ULM)
        assert not passes(plain, grammar, thought + "{}")
        assert not passes(plain, grammar, thought)
    for name in ("enable_thinking", "thinking"):
        off = grammar_of(plain, asked | {"chat_template_kwargs": {name: False}})
        assert passes(plain, off, ULM)
        assert not passes(plain, off, thought + ULM)
    begun = [*HELLO, {"role": "assistant", "content": "x<think>"}]
    open_ended = {"messages": begun, "continue_final_message": True, "add_generation_prompt": False}
    forced = {"tools": TWO_TOOLS, "tool_choice": "required"} | open_ended
    answer = post(plain.app(format=FORMAT), "/v1/chat/completions", forced)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "continue_final_message"


def test_only_some_tools(plain: Any, harmony: Any) -> None:
    tools = [TWO_TOOLS[1], {"type": "function", "function": {"name": "look_up", "parameters": STRICT}}]
    some = {"type": "function", "function": {"name": "look_up"}}
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [some]}}
        body = {"messages": HELLO, "tools": tools, "tool_choice": choice}
        assert post(harmony.app(), "/v1/chat/completions", body).status_code == 200
        submit = harmony.engine.submitted[-1]
        prompt = harmony.tokenizer.decode(submit.prompt_token_ids, False)
        assert "type look_up" in prompt
        assert "type stop" not in prompt
        assert (submit.grammar is not None) == (mode == "required")
        grammar = grammar_of(plain, body)
        if mode == "required":
            assert passes(plain, grammar, CALL % ("look_up", ULM))
            assert not passes(plain, grammar, CALL % ("stop", "{}"))
        else:
            assert grammar is None
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [some, NAMED]}}
    answer = post(harmony.app(), "/v1/chat/completions", {"messages": HELLO, "tools": tools, "tool_choice": choice})
    assert answer.json()["error"]["param"] == "tool_choice.allowed_tools.tools[1].function.name"


def test_without_a_known_format_tools_are_refused(plain: Any) -> None:
    answer = post(plain.app(), "/v1/chat/completions", {"messages": HELLO, "tools": TOOLS})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"
