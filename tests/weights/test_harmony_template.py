"""Our Harmony template, rendered as transformers renders templates, against conversations written by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from yardmaster.weights.harmony_template import TEMPLATE

SYSTEM = (
    "<|start|>system<|message|>You are a helpful assistant.\nKnowledge cutoff: 2024-06\n{date}\nReasoning: {effort}\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.{tools}<|end|>"
)
TOOLS_LINE = "\nCalls to these tools must go to the commentary channel: 'functions'."
START = SYSTEM.format(date="", effort="medium", tools="")


def render(messages: list[dict[str, Any]], *, trim: bool = True, **variables: Any) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=trim, lstrip_blocks=trim)
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE).render(messages=messages, **variables)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Gets the weather.\nNow.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                "days": {"type": ["integer", "null"]},
                "tags": {"type": "array", "items": {"type": "string"}},
                "mixed": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "number"}]}},
                "place": {
                    "type": "object",
                    "properties": {"lat": {"type": "number"}, "items": {"type": "boolean"}},
                    "required": ["lat"],
                },
                "any": {},
                "free": {"type": "object"},
            },
            "required": ["city", "place"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}

NAMESPACE = """# Tools

## functions

namespace functions {

// Gets the weather.
// Now.
type get_weather = (_: {
// The city
city: string,
unit?: "C" | "F", // default: "C"
days?: number | null,
tags?: string[],
mixed?: (string | number)[],
place: {
lat: number,
items?: boolean,
},
any?: any,
free?: object,
}) => any;

// The time.
type now = () => any;

} // namespace functions"""


@pytest.mark.parametrize("trim", [True, False])
def test_a_question(trim: bool) -> None:
    want = START + "<|start|>user<|message|>Hi\n there <|end|><|start|>assistant"
    assert render([user("Hi\n there ")], add_generation_prompt=True, trim=trim) == want
    assert render([user("Hi\n there ")], trim=trim) == want.removesuffix("<|start|>assistant")


def test_variables() -> None:
    got = render([], reasoning_effort="high", strftime_now=lambda form: form.replace("%Y-%m-%d", "2026-01-02"))
    assert got == SYSTEM.format(date="Current date: 2026-01-02\n", effort="high", tools="")
    assert "message|>I am a crane.\nKnow" in render([], model_identity="I am a crane.", reasoning_effort=None)


def test_instructions_and_parts() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        user("Hi"),
        {"role": "system", "content": "Now be loud."},
    ]
    assert render(messages) == START + (
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\nBe kind.<|end|><|start|>user<|message|>Hi<|end|>"
        "<|start|>developer<|message|># Instructions\n\nNow be loud.<|end|>"
    )
    empty = [{"role": "user", "content": None}, {"role": "user", "content": [{"type": "image_url"}]}]
    assert render(empty) == START + "<|start|>user<|message|><|end|>" * 2


@pytest.mark.parametrize("trim", [True, False])
def test_tools(trim: bool) -> None:
    start = SYSTEM.format(date="", effort="medium", tools=TOOLS_LINE)
    got = render([user("Hi")], tools=[WEATHER, NOW], trim=trim)
    assert got == start + f"<|start|>developer<|message|>{NAMESPACE}<|end|><|start|>user<|message|>Hi<|end|>"
    got = render([{"role": "system", "content": "X"}, user("Hi")], tools=[WEATHER, NOW], trim=trim)
    assert f"developer<|message|># Instructions\n\nX\n\n{NAMESPACE}<|end|>" in got


def call(id_: str, name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    calls = [{"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


def test_analysis_stays_inside_a_tool_loop_and_nowhere_else() -> None:
    first = [
        user("One?"),
        call("c1", "now", "{}", reasoning_content="old thought"),
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        {"role": "assistant", "content": "Noon.", "reasoning_content": "old end"},
    ]
    loop = [
        user("And there?"),
        call("c2", "get_weather", {"city": "Ulm"}, reasoning_content="I look", content="One moment."),
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
    ]
    want_first = START + (
        "<|start|>user<|message|>One?<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
        "<|start|>functions.now to=assistant<|channel|>commentary<|message|>noon<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Noon.<|end|>"
    )
    assert render([*first, *loop], add_generation_prompt=True) == want_first + (
        "<|start|>user<|message|>And there?<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>I look<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Ulm"}<|call|>'
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>rain<|end|>"
        "<|start|>assistant"
    )
    # Without a prompt to follow (as in training), the last answer keeps its analysis and is done.
    assert render(first).endswith(
        "<|start|>assistant<|channel|>analysis<|message|>old end<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Noon.<|return|>"
    )
    assert "old thought" not in render(first)


def test_a_tool_answer_finds_its_call() -> None:
    two = call("a", "now", "{}")
    two["tool_calls"] += call("b", "get_weather", "{}")["tool_calls"]
    got = render(
        [user("x"), two, {"role": "tool", "tool_call_id": "a", "content": "1"}, {"role": "tool", "content": "2"}]
    )
    assert "functions.now to=assistant<|channel|>commentary<|message|>1" in got
    assert "functions.get_weather to=assistant<|channel|>commentary<|message|>2" in got
    named = render([user("x"), {"role": "tool", "name": "mine", "content": "3"}])
    assert "functions.mine to=assistant" in named
