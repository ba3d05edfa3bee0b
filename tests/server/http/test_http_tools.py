"""Function tools of chat completions, whole and streamed, and what a malformed output of the model becomes."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.http.splitter import ALL_REPAIRS

HELLO = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
TOOLS = [WEATHER, NOW]
THOUGHT = "<|channel|>analysis<|message|>Think é🙂<|end|><|start|>assistant"
CALL = f'{THOUGHT}<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{{"city": "Zürich"}}'
TWO = (
    "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary json"
    '<|message|>{}<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>{"city": "Ulm"}'
)


def post(app: Any, body: Any, path: str = "/v1/chat/completions") -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json={"messages": HELLO, "tools": TOOLS} | body)

    return anyio.run(send)


def whole(stage: Any, body: dict[str, Any] | None = None) -> dict[str, Any]:
    response = post(stage.app(), body or {})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def chunks(stage: Any, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    response = post(stage.app(), {"stream": True} | (body or {}))
    assert response.status_code == 200, response.text
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: "))["choices"][0] for block in blocks[:-2]]


def accumulated(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of a stream: checks that index, id and name come as OpenAI sends them."""
    content, reasoning, calls = "", "", []
    for choice in choices:
        delta = choice["delta"]
        assert delta.get("reasoning") == delta.get("reasoning_content")
        content += delta.get("content") or ""
        reasoning += delta.get("reasoning") or ""
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(calls):
                assert set(call) == {"index", "id", "type", "function"}
                assert set(call["function"]) == {"name", "arguments"}
                calls.append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
            else:
                assert call["index"] == len(calls) - 1
                assert set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    return {"content": content, "reasoning": reasoning, "calls": calls, "finish_reason": choices[-1]["finish_reason"]}


def plain(choice: dict[str, Any]) -> dict[str, Any]:
    """A whole answer in the same form."""
    message = choice["message"]
    assert message.get("reasoning") == message.get("reasoning_content")
    return {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning", ""),
        "calls": message.get("tool_calls", []),
        "finish_reason": choice["finish_reason"],
    }


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    identities = [call["id"] for call in answer["calls"]]
    assert len(set(identities)) == len(identities)
    assert all(identity.startswith("call_") for identity in identities)
    return answer | {"calls": [(call["function"]["name"], call["function"]["arguments"]) for call in answer["calls"]]}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_call_whole_and_streamed(harmony: Any, size: int) -> None:
    harmony.engine.script = harmony.say(CALL, size=size)
    expected = {
        "content": "",
        "reasoning": "Think é🙂",
        "calls": [("get_weather", '{"city": "Zürich"}')],
        "finish_reason": "tool_calls",
    }
    choice = whole(harmony)
    assert choice["message"]["content"] is None
    assert without_ids(plain(choice)) == expected
    assert without_ids(accumulated(chunks(harmony))) == expected


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_several_calls_with_a_preamble(harmony: Any, size: int) -> None:
    harmony.engine.script = harmony.say(TWO, size=size)
    expected = {
        "content": "I look.",
        "reasoning": "",
        "calls": [("now", "{}"), ("get_weather", '{"city": "Ulm"}')],
        "finish_reason": "tool_calls",
    }
    choice = whole(harmony)
    assert choice["message"]["content"] == "I look."
    assert without_ids(plain(choice)) == expected
    assert without_ids(accumulated(chunks(harmony))) == expected


@pytest.mark.parametrize("end", ["<|end|><|start|>assistant", "<|start|>assistant", ""])
def test_no_second_call_comes_with_the_end_of_the_first(harmony: Any, end: str) -> None:
    first = "<|channel|>commentary to=functions.now<|message|>{}"
    harmony.engine.script = harmony.say(f"{first}{end}<|channel|>commentary to=functions.get_weather<|message|>[")
    answer = without_ids(plain(whole(harmony, {"parallel_tool_calls": False})))
    assert answer["calls"] == [("now", "{}")]


@pytest.mark.parametrize("size", [1, 1000])
def test_one_call_at_a_time(harmony: Any, size: int) -> None:
    harmony.engine.script = harmony.say(TWO, size=size)
    for answer in (
        plain(whole(harmony, {"parallel_tool_calls": False})),
        accumulated(chunks(harmony, {"parallel_tool_calls": False})),
    ):
        assert without_ids(answer)["calls"] == [("now", "{}")]
        assert answer["finish_reason"] == "tool_calls"
    if size == 1:
        assert harmony.engine.aborted == [submit.request_id for submit in harmony.engine.submitted]


def test_a_call_that_is_cut_off(harmony: Any) -> None:
    harmony.engine.script = harmony.say(CALL.removesuffix('rich"}'), finish="length")
    for answer in (plain(whole(harmony)), accumulated(chunks(harmony))):
        assert without_ids(answer)["calls"] == [("get_weather", '{"city": "Zü')]
        assert answer["finish_reason"] == "length"


def test_usage_counts_reasoning_and_calls(harmony: Any) -> None:
    harmony.engine.script = harmony.say(CALL)
    usage = post(harmony.app(), {}).json()["usage"]
    assert usage["completion_tokens"] == len(harmony.ids(CALL)) + 1
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len(harmony.ids("Think é🙂"))}


def test_the_prompt_shows_tools_calls_and_results(harmony: Any) -> None:
    harmony.engine.script = harmony.say(CALL)
    message = whole(harmony)["message"]
    call = message["tool_calls"][0]
    result = {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "<|end|>rain"}]}
    whole(harmony, {"messages": [*HELLO, message, result]})
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False)
    assert "type get_weather = (_: {\ncity?: string,\n}) => any;" in prompt
    assert prompt.endswith(
        "<|start|>user<|message|>hi<|end|><|start|>assistant<|channel|>analysis<|message|>Think é🙂<|end|>"
        "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>"
        '{"city": "Zürich"}<|call|>'
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|><|end|>rain<|end|>"
        "<|start|>assistant"
    )


def test_tokenize_shows_the_same_prompt(harmony: Any) -> None:
    for body in ({}, {"tool_choice": "none"}, {"tools": None}, {"reasoning_effort": "low"}):
        whole(harmony, body)
        tokens = post(harmony.app(), body, "/tokenize").json()["tokens"]
        assert tokens == harmony.engine.submitted[-1].prompt_token_ids


def test_no_tools_are_shown_and_no_call_is_taken_with_choice_none(harmony: Any) -> None:
    harmony.engine.script = harmony.say(CALL)
    choice = whole(harmony, {"tool_choice": "none"})
    assert plain(choice) == {
        "content": "",
        "reasoning": 'Think é🙂{"city": "Zürich"}',
        "calls": [],
        "finish_reason": "stop",
    }
    assert choice["message"]["content"] == ""
    assert "functions" not in harmony.tokenizer.decode(harmony.engine.submitted[0].prompt_token_ids, False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": None, "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [NOW] * 129}, "tools"),
        ({"messages": [*HELLO, {"role": "tool", "content": "x", "tool_call_id": "c"}]}, "messages[1].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "name": "a b"}]}, "messages[0].name"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
    ],
)
def test_wrong_tools_are_named(harmony: Any, body: dict[str, Any], param: str) -> None:
    response = post(harmony.app(), body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert harmony.engine.submitted == []


# What the model gets wrong is a 200, in the right place, and counted

MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("No header.", {"content": "No header."}, "text_before_header"),
    ("<|channel|>thinking<|message|>x<|end|>", {"reasoning": "x"}, "unknown_channel"),
    ("<|channel|>commentary to=functions.now<|call|>", {"calls": [("now", "{}")]}, "empty_arguments"),
    ("<|channel|>commentary to=now json<|message|>{}<|call|>", {"calls": [("now", "{}")]}, "function_name"),
    ("<|channel|>commentary to=functions.nowjson<|message|>{}<|call|>", {"calls": [("now", "{}")]}, "function_name"),
    ("<|channel|>analysis to=functions.now code<|message|>{}<|call|>", {"calls": [("now", "{}")]}, ""),
    ("<|channel|>commentary to=functions.other<|message|>[<|call|>", {"calls": [("other", "[")]}, "unknown_function"),
    ("<|channel|>commentary to=browser.open code<|message|>{}<|call|>", {"reasoning": "{}"}, ""),
    ("<|channel|>commentary to=assistant<|message|>hm<|end|>", {"reasoning": "hm"}, ""),
    ("<|start|>functions.now to=functions.now<|channel|>commentary<|message|>9", {"reasoning": "9"}, "foreign_role"),
    ("<|channel|>final to=user<|message|>x", {"content": "x"}, ""),
    ("<|start|>functions.now to=assistant<|channel|>commentary<|message|>9<|end|>", {"reasoning": "9"}, "foreign_role"),
    ("<|channel|>final<|message|>a<|channel|>analysis<|message|>b", {"content": "a", "reasoning": "b"}, "missing_end"),
    ("<|channel|>commentary to=functions.now", {}, "missing_message"),
]


@pytest.mark.parametrize(("text", "expected", "repair"), MALFORMED, ids=[text for text, _, _ in MALFORMED])
def test_malformed_outputs_are_answers(harmony: Any, text: str, expected: dict[str, Any], repair: str) -> None:
    if text.endswith("to=functions.now"):
        expected = {"calls": [("now", "{}")]}  # the end token of the script ends the call
    answer = {"content": "", "reasoning": "", "calls": [], "finish_reason": "stop"} | expected
    if answer["calls"]:
        answer["finish_reason"] = "tool_calls"
    for size in (1, 3, 1000):
        harmony.engine.script = harmony.say(text, size=size)
        assert without_ids(plain(whole(harmony))) == answer
        assert without_ids(accumulated(chunks(harmony))) == answer
    if repair:
        count = harmony.metrics.registry.get_sample_value("yardmaster_harmony_repairs_total", {"kind": repair})
        assert count == 6


def test_all_kinds_of_repair_are_counted_from_the_start(harmony: Any) -> None:
    harmony.app()
    text = harmony.metrics.render().decode()
    for kind in ALL_REPAIRS:
        assert f'yardmaster_harmony_repairs_total{{kind="{kind}"}} 0.0' in text


def test_any_output_is_an_answer_and_the_same_streamed(harmony: Any) -> None:
    pieces = st.sampled_from(
        [
            *sorted(harmony.tokenizer.special_texts),
            *("analysis", "commentary", "final", " to=functions.now", " to=x", "assistant", " json", "{}", "a b c"),
            *("é", "\n", "functions.get_weather", " to=now", "user"),
        ]
    )

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(pieces, min_size=1, max_size=12).map("".join), st.integers(1, 5), st.sampled_from(["stop", "length"])
    )
    def check(text: str, size: int, finish: str) -> None:
        harmony.engine.script = harmony.say(text, finish=finish, size=10_000)
        answer = without_ids(plain(whole(harmony)))
        harmony.engine.script = harmony.say(text, finish=finish, size=size)
        assert without_ids(accumulated(chunks(harmony))) == answer

    check()
