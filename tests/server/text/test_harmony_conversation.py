"""OpenAI's messages to Harmony prompts: who speaks, what is kept of earlier reasoning, whose a tool's answer is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.text.harmony.conversation import HarmonyChat
from yardmaster.server.text.harmony.encoder import HarmonyEncoder
from yardmaster.server.text.harmony.messages import Message, without_stale_analysis
from yardmaster.server.text.messages_in import MessageError, plain_messages
from yardmaster.server.text.tokenizer import Tokenizer

TokenizerOf = Callable[[str], Tokenizer]

SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2026-11-21\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.{tools}<|end|>"
)
START = SYSTEM.format(tools="")
START_WITH_TOOLS = SYSTEM.format(tools="\nCalls to these tools must go to the commentary channel: 'functions'.")
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
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
                "place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
            },
            "required": ["city", "place"],
        },
    },
}
NAMESPACE = """# Tools

## functions

namespace functions {

// Gets the weather.
// Now.
type get_weather = (_: {
// The city
city: string,
unit?: "C" | "F", // default: C
days?: number | null,
tags?: string[],
place: {
    lat: number,
    },
}) => any;

// The time.
type now = () => any;

} // namespace functions"""


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def answer(text: str | None, reasoning: str | None = None, *calls: tuple[str, str, str]) -> dict[str, Any]:
    made = [{"id": i, "type": "function", "function": {"name": name, "arguments": text}} for i, name, text in calls]
    message = {"role": "assistant", "content": text, "reasoning_content": reasoning}
    return message | ({"tool_calls": made} if made else {})


def result(text: str, identity: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": identity, **more}


@pytest.fixture
def prompt(tokenizer_of: TokenizerOf) -> Callable[..., str]:
    tokenizer = tokenizer_of("harmony")
    chat = HarmonyChat(HarmonyEncoder(tokenizer))

    def make(*messages: dict[str, Any], tools: Any = (), **options: Any) -> str:
        plain = plain_messages(messages, raw_arguments=True)
        return tokenizer.decode(chat.encode(plain, tools, **{"current_date": "2026-11-21", **options}), False)

    return make


def test_a_question(prompt: Callable[..., str]) -> None:
    assert prompt(user("Hi\n there ")) == START + "<|start|>user<|message|>Hi\n there <|end|><|start|>assistant"
    assert prompt(user("Hi", name="bob-1")).endswith("<|start|>user:bob-1<|message|>Hi<|end|><|start|>assistant")
    assert prompt(user("Hi"), add_generation_prompt=False) == START + "<|start|>user<|message|>Hi<|end|>"


def test_instructions(prompt: Callable[..., str]) -> None:
    found = prompt(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        user("Hi"),
        {"role": "system", "content": "Now be loud."},
    )
    assert found == START + (
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\nBe kind.<|end|><|start|>user<|message|>Hi<|end|>"
        "<|start|>developer<|message|># Instructions\n\nNow be loud.<|end|><|start|>assistant"
    )
    assert prompt({"role": "system", "content": ""}, user("Hi")) == prompt(user("Hi"))


def test_tools(prompt: Callable[..., str]) -> None:
    question = "<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant"
    developer = "<|start|>developer<|message|>"
    found = prompt(user("Hi"), tools=[WEATHER, NOW])
    assert found == START_WITH_TOOLS + developer + NAMESPACE + question
    found = prompt({"role": "system", "content": "X"}, user("Hi"), tools=[WEATHER, NOW])
    assert found == START_WITH_TOOLS + developer + "# Instructions\n\nX\n\n" + NAMESPACE + question


def test_a_tool_loop_keeps_its_reasoning(prompt: Callable[..., str]) -> None:
    found = prompt(
        user("q1"),
        answer("a1", "old thought"),
        user("q2"),
        answer("I will look.", "new thought", ("c1", "get_weather", '{"city":  "Paris"}'), ("c2", "now", "not JSON")),
        result("noon", "c2"),
        result("rain", "c1"),
    ).removeprefix(START)
    assert found == (
        "<|start|>user<|message|>q1<|end|><|start|>assistant<|channel|>final<|message|>a1<|end|>"
        "<|start|>user<|message|>q2<|end|><|start|>assistant<|channel|>analysis<|message|>new thought<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I will look.<|end|>"
        '<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city":  "Paris"}<|call|>'
        "<|start|>assistant to=functions.now<|channel|>commentary json<|message|>not JSON<|call|>"
        "<|start|>functions.now to=assistant<|channel|>commentary<|message|>noon<|end|>"
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>rain<|end|>"
        "<|start|>assistant"
    )


def test_an_answered_turn_loses_its_reasoning(prompt: Callable[..., str]) -> None:
    turn = [user("q"), answer(None, "t1", ("c", "f", "{}")), result("r", "c"), answer("a", "t2")]
    assert "analysis<|message|>" not in prompt(*turn, user("q2"))
    assert "analysis<|message|>" not in prompt(*turn)
    assert prompt(*turn, add_generation_prompt=False).endswith(
        "<|channel|>analysis<|message|>t2<|end|><|start|>assistant<|channel|>final<|message|>a<|return|>"
    )
    unanswered = prompt(user("q"), {"role": "assistant", "reasoning": "cut off"}, user("go on"))
    assert "<|channel|>analysis<|message|>cut off<|end|><|start|>user" in unanswered
    assert "<|channel|>final" not in unanswered


def test_the_rule_of_dropping_for_any_messages() -> None:
    """Against the rule in words: an analysis goes when a final answer comes after it."""
    for seed in range(200):
        pick = random.Random(seed)
        channels = [pick.choice(["analysis", "final", "commentary", None]) for _ in range(pick.randint(0, 9))]
        said = [Message("assistant", str(place), channel=channel) for place, channel in enumerate(channels)]
        for current in (False, True):
            later = len(said) - 1 if current else len(said)
            kept = [
                each
                for place, each in enumerate(said)
                if each.channel != "analysis" or "final" not in channels[place + 1 : later]
            ]
            assert without_stale_analysis(said, last_is_current=current) == kept


def test_whose_answer_it_is(prompt: Callable[..., str]) -> None:
    calls = answer(None, None, ("c1", "f", "{}"), ("c2", "g", "{}"))
    for message, name in (
        (result("r", "c1"), "functions.f"),
        (result("r", "c2", name="other"), "functions.g"),
        (result("r", None), "functions.g"),
        (result("r", None, name="h"), "functions.h"),
        (result("r", "unknown", name="functions.h"), "functions.h"),
    ):
        found = prompt(user("q"), calls, message)
        assert found.endswith(f"<|start|>{name} to=assistant<|channel|>commentary<|message|>r<|end|><|start|>assistant")
    with pytest.raises(MessageError) as caught:
        prompt(user("q"), calls, result("r", "unknown"))
    assert caught.value.param == "messages.2.tool_call_id"
    with pytest.raises(MessageError):
        prompt(result("r", None))


def test_going_on_with_the_last_message(prompt: Callable[..., str]) -> None:
    go_on: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
    assert prompt(user("q"), answer("The", "t"), **go_on).endswith(
        "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>The"
    )
    assert prompt(user("q"), answer(None, "I th"), **go_on).endswith("<|channel|>analysis<|message|>I th")
    for last in (user("q"), answer(None, None, ("c", "f", "{}"))):
        with pytest.raises(MessageError) as caught:
            prompt(user("q"), last, **go_on)
        assert caught.value.param == "continue_final_message"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"thinking": True}, "chat_template_kwargs"),
        ({"model_identity": 5}, "chat_template_kwargs"),
        ({"current_date": 5}, "chat_template_kwargs"),
        ({"builtin_tools": ["shell"]}, "chat_template_kwargs"),
        ({"builtin_tools": "python"}, "chat_template_kwargs"),
        ({"builtin_tools": [["python"]]}, "chat_template_kwargs"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ],
)
def test_wrong_variables_are_named(prompt: Callable[..., str], options: dict[str, Any], param: str) -> None:
    with pytest.raises(MessageError) as caught:
        prompt(user("q"), **options)
    assert caught.value.param == param


def test_wrong_messages_are_named(prompt: Callable[..., str]) -> None:
    for message, param in (
        (user("q", name="a b"), "messages.0.name"),
        (user("q", name="x=y"), "messages.0.name"),
        ({"role": "critic", "content": "q"}, "messages.0.role"),
        ({"content": "q"}, "messages.0.role"),
    ):
        with pytest.raises(MessageError) as caught:
            prompt(message)
        assert caught.value.param == param


def within(schema: Any) -> Any:
    for _ in range(8):
        schema = schema["properties"]["a"]
    return schema


def test_a_bottomless_schema_is_refused(prompt: Callable[..., str]) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    objects: dict[str, Any] = {"type": "string"}
    for _ in range(70):
        objects = {"type": "object", "properties": {"a": objects}}
    for deep in (schema, objects):
        with pytest.raises(MessageError) as caught:
            prompt(user("q"), tools=[{"function": {"name": "f", "parameters": deep}}])
        assert caught.value.param == "tools"
    assert "\n" + 240 * " " + "}" in prompt(
        user("q"), tools=[{"function": {"name": "f", "parameters": within(objects)}}]
    )


def test_no_text_becomes_a_control_token(tokenizer_of: TokenizerOf) -> None:
    """The control tokens of a prompt follow from its messages' roles alone, whatever stands in them."""
    tokenizer = tokenizer_of("harmony")
    chat = HarmonyChat(HarmonyEncoder(tokenizer))
    pieces = st.sampled_from(
        [*sorted(tokenizer.special_texts), "to=functions.f", "final", " ", "é", "x", "<|", "|>", "\n"]
    )
    texts = st.lists(pieces, max_size=6).map("".join)

    def ids(text: str) -> list[int]:
        name = "".join(text.split()) or "n"
        schema = {"type": "object", "description": text, "properties": {text: {"type": "string", "default": text}}}
        tools = [{"function": {"name": name, "description": text, "parameters": schema}}]
        messages = [
            {"role": "system", "content": text},
            user(text),
            answer(text, text, (text, name, text)),
            result(text, text, name=text),
            answer(text),
            user(text),
        ]
        plain = plain_messages(messages, raw_arguments=True)
        return chat.encode(plain, tools, current_date=text, model_identity=text, knowledge_cutoff=text)

    expected = [token for token in ids("x") if token in tokenizer.special_ids]

    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(texts.filter(bool))
    def check(text: str) -> None:
        found = ids(text)
        assert [token for token in found if token in tokenizer.special_ids] == expected
        assert tokenizer.decode(found, False).count(text) >= 10

    check()
