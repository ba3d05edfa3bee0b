"""/v1/messages as a client sees it: what an answer holds, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.tests.server.http.messages_talk import (
    BODY,
    COUNT,
    FINAL,
    PATH,
    TOOLS,
    accumulated,
    bare,
    blocks,
    prompt,
    refused,
    send,
    streamed,
    whole,
)

SHOWN = {"thinking": {"type": "adaptive"}}
ANSWER = f"<|channel|>analysis<|message|>Think é🙂<|end|><|start|>assistant{FINAL}Hello wörld🙂"
CALL = (
    "<|channel|>analysis<|message|>Think é🙂<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "Zürich"}'
)
TWO = (
    "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary json"
    '<|message|>{}<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>{"city": "Ulm"}'
)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_text_and_thinking(harmony: Any, size: int) -> None:
    harmony.engine.script = harmony.say(ANSWER, size=size)
    message = whole(harmony, SHOWN)
    total, prompt_tokens = len(harmony.ids(ANSWER)) + 1, len(harmony.engine.submitted[0].prompt_token_ids)
    assert bare(message) == {
        "type": "message",
        "role": "assistant",
        "model": "test-model",
        "content": [
            {"type": "thinking", "thinking": "Think é🙂", "signature": "unsigned"},
            {"type": "text", "text": "Hello wörld🙂"},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": total,
            "output_tokens_details": {"thinking_tokens": len(harmony.ids("Think é🙂"))},
        },
    }
    events = streamed(harmony, SHOWN)
    assert events[0]["message"]["usage"] == message["usage"] | {
        "output_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 0},
    }
    assert events[1] == {"type": "ping"}
    assert bare(accumulated(events)) == bare(message)


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_thinking_is_shown_only_on_request(harmony: Any, thinking: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER)
    assert blocks(harmony, {"thinking": thinking}) == [{"type": "text", "text": "Hello wörld🙂"}]
    omitted = {"thinking": {"type": "adaptive", "display": "omitted"}}
    assert blocks(harmony, omitted)[0] == {"type": "thinking", "thinking": "", "signature": "unsigned"}


def test_a_plain_model(plain: Any) -> None:
    plain.engine.script = plain.say("Plain 你好 text", size=3)
    assert blocks(plain) == [{"type": "text", "text": "Plain 你好 text"}]
    message = whole(plain)
    assert "output_tokens_details" not in message["usage"]
    assert prompt(plain) == "user: hi\nassistant: "


def test_an_answer_has_a_block_always(harmony: Any) -> None:
    harmony.engine.script = harmony.say("<|channel|>analysis<|message|>Hm", finish="length")
    assert blocks(harmony) == [{"type": "text", "text": ""}]
    assert whole(harmony)["stop_reason"] == "max_tokens"
    assert [block["type"] for block in blocks(harmony, SHOWN)] == ["thinking"]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls(harmony: Any, size: int) -> None:
    harmony.engine.script = harmony.say(CALL, size=size)
    call = {"type": "tool_use", "name": "get_weather", "input": {"city": "Zürich"}}
    assert blocks(harmony, TOOLS) == [call]
    assert whole(harmony, TOOLS)["stop_reason"] == "tool_use"
    harmony.engine.script = harmony.say(TWO, size=size)
    assert blocks(harmony, TOOLS) == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "name": "now", "input": {}},
        {"type": "tool_use", "name": "get_weather", "input": {"city": "Ulm"}},
    ]
    one = {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    assert [block["type"] for block in blocks(harmony, TOOLS | one)] == ["text", "tool_use"]


def test_a_call_comes_piece_by_piece(harmony: Any) -> None:
    harmony.engine.script = harmony.say(CALL, pause=0.001)
    events = streamed(harmony, TOOLS)
    parts = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert len(parts) > 3
    assert "".join(parts) == '{"city":"Zürich"}'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": "x\ny"}', {"a": "x\ny"}),
        ('{"a": True', {}),
        ("print(1)", {"arguments": "print(1)"}),
        ("", {}),
    ],
)
def test_malformed_arguments_are_an_object(harmony: Any, arguments: str, expected: dict[str, Any]) -> None:
    harmony.engine.script = harmony.say(f"<|channel|>commentary to=functions.now<|message|>{arguments}")
    assert blocks(harmony, TOOLS) == [{"type": "tool_use", "name": "now", "input": expected}]
    count = harmony.metrics.registry.get_sample_value("yardmaster_harmony_repairs_total", {"kind": "mended_arguments"})
    assert count == (2 if expected else 0)


def test_thinking_after_text_is_a_block_of_its_own(harmony: Any) -> None:
    text = (
        "<|channel|>commentary<|message|>First.<|end|><|start|>assistant<|channel|>analysis<|message|>Hm."
        f"<|end|><|start|>assistant{FINAL}Last."
    )
    for size in (1, 5, 1000):
        harmony.engine.script = harmony.say(text, size=size)
        content = blocks(harmony, SHOWN)
        assert [block.get("text") or block["thinking"] for block in content] == ["First.", "Hm.", "Last."]
        assert blocks(harmony) == [{"type": "text", "text": "First.Last."}]
        assert blocks(harmony, SHOWN | {"stop_sequences": ["t.L"]}) == [{"type": "text", "text": "Firs"}]
        assert blocks(harmony, SHOWN | {"stop_sequences": ["Last"]}) == content[:2]
        stop = SHOWN | {"stop_sequences": ["st"]}
        assert blocks(harmony, stop) == [{"type": "text", "text": "Fir"}]


@pytest.mark.parametrize("size", [1, 100])
def test_stop_sequences(harmony: Any, size: int) -> None:
    harmony.engine.script = harmony.say(f"{FINAL}one two STOP three", finish="length", size=size)
    body = {"stop_sequences": ["never", "STOP"]}
    assert blocks(harmony, body) == [{"type": "text", "text": "one two "}]
    message = whole(harmony, body)
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "STOP")
    assert harmony.engine.submitted[0].params.stop == ("never", "STOP")


def test_the_end_of_the_context(harmony: Any) -> None:
    harmony.engine.script = harmony.say(f"{FINAL}abc", finish="length")
    assert whole(harmony, {"max_tokens": 100_000})["stop_reason"] == "model_context_window_exceeded"
    submitted = harmony.engine.submitted[0]
    assert submitted.params.max_tokens == harmony.max_model_len - len(submitted.prompt_token_ids)
    response = send(harmony.app(), BODY | {"messages": [{"role": "user", "content": "é" * 3000}]})
    tokens = send(harmony.app(), BODY | {"messages": [{"role": "user", "content": "é" * 3000}]}, COUNT).json()
    assert tokens["input_tokens"] > harmony.max_model_len
    message = f"prompt is too long: {tokens['input_tokens']} tokens > {harmony.max_model_len - 1} maximum"
    refused(response, 400, "invalid_request_error", message)
    response = send(harmony.app(), BODY | {"messages": [{"role": "user", "content": "é" * 300_000}]})
    refused(response, 400, "invalid_request_error", "prompt is too long: ")


def test_sampling(harmony: Any) -> None:
    body = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "max_tokens": 12, "metadata": {"user_id": "u"}}
    whole(harmony, body | {"service_tier": "auto", "stop_sequences": None, "thinking": None})
    params = harmony.engine.submitted[0].params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 0.25, 7, 12)


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, "medium"),
        ({"thinking": {"type": "disabled"}}, "low"),
        ({"thinking": {"type": "adaptive"}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 16385}}, "high"),
        ({"output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, "high"),
    ],
)
def test_thinking_is_effort(harmony: Any, fields: dict[str, Any], effort: str) -> None:
    whole(harmony, {"max_tokens": 32_000} | fields)
    assert f"Reasoning: {effort}" in prompt(harmony)


def test_any_output_is_an_answer_and_the_same_streamed(harmony: Any) -> None:
    pieces = st.sampled_from(
        [
            *sorted(harmony.tokenizer.special_texts),
            *("analysis", "commentary", "final", " to=functions.now", " to=x", "assistant", " json", "{}", "a b c"),
            *("é", "\n", "functions.get_weather", " to=now", "user", '{"a": ', '"x', "\\", "1", "true,", "]", "["),
        ]
    )

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(pieces, min_size=1, max_size=12).map("".join), st.integers(1, 5), st.sampled_from(["stop", "length"])
    )
    def check(text: str, size: int, finish: str) -> None:
        harmony.engine.script = harmony.say(text, finish=finish, size=10_000)
        body = TOOLS | SHOWN | {"stop_sequences": ["a b", "\n"]}
        message = bare(whole(harmony, body))
        harmony.engine.script = harmony.say(text, finish=finish, size=size)
        assert bare(accumulated(streamed(harmony, body))) == message

    check()


def test_the_documentation_has_both_routes(harmony: Any) -> None:
    document = send(harmony.app(), None, "/openapi.json", "GET").json()
    for path, model in ((PATH, "MessagesRequest"), (COUNT, "CountTokensRequest")):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{model}")
        assert model in document["components"]["schemas"]
