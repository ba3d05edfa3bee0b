"""Calls and reasoning in the format of each family."""

# ruff: noqa: RUF001 (the bars are DeepSeek's own)

from __future__ import annotations

from typing import Any

import pytest

from yardmaster.server.text.formats.base import Arguments, CallEnd, CallStart, Content, Reasoning
from yardmaster.server.text.formats.parser import FormatParser
from yardmaster.server.text.formats.reasoning import ANGLE, SQUARE
from yardmaster.server.text.formats.registry import TOOL_PARSERS
from yardmaster.server.text.formats.stream import MAX_HEAD
from yardmaster.tests.server.text.family_texts import DOCUMENTED, MISTAKES, TEXTS, TWO, WEATHER, kimi

FUNCTIONS = ("get_weather", "now")
Calls = list[tuple[str, str]]


def parse(name: str | None, text: str, size: int = 1, think: Any = None, **options: Any) -> tuple[str, str, Calls]:
    """Content, reasoning, and (name, arguments) of the calls."""
    family = None if name is None else TOOL_PARSERS[name]
    parser = FormatParser(family, think, options.pop("functions", FUNCTIONS), **options)
    events = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
    events += parser.finish()
    assert not parser.holds
    return summary(events)


def summary(events: list[Any]) -> tuple[str, str, Calls]:
    content, reasoning, calls, calling = "", "", [], False
    for event in events:
        match event:
            case CallStart(function, _):
                assert not calling
                calls.append((function, ""))
                calling = True
            case Arguments(text):
                assert calling
                assert text
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
            case CallEnd():
                assert calling
                assert calls[-1][1]
                calling = False
            case Content(text):
                assert text
                assert not calling
                content += text
            case Reasoning(text):
                assert text
                assert not calling
                reasoning += text
    assert not calling
    return content, reasoning, calls


def same(name: str, text: str, expected: tuple[str, str, Calls], **options: Any) -> None:
    for size in (1, 2, 3, 7, 10_000):
        assert parse(name, text, size, **options) == expected


@pytest.mark.parametrize(("name", "text"), DOCUMENTED)
def test_a_call_as_documented(name: str, text: str) -> None:
    calls = [("get_weather", WEATHER)]
    same(name, text, ("", "", calls))
    if name != "llama3_json" or text.startswith("<"):
        same(name, f"I look.{text}", ("I look.", "", calls))
        same(name, f"I look.\n\n{text}\n", ("I look.\n\n", "", calls))
        same(name, f"<think>\nHm.\n</think>\n\n{text}", ("", "Hm.", calls), think=ANGLE)
    same(name, f"\n{text}\n", ("", "", calls))


@pytest.mark.parametrize(("name", "text"), TWO)
def test_two_calls_as_documented(name: str, text: str) -> None:
    same(name, text, ("", "", [("get_weather", WEATHER), ("now", "{}")]))


@pytest.mark.parametrize(("name", "text"), [*DOCUMENTED, *TWO])
def test_the_arguments_come_as_they_are_written(name: str, text: str) -> None:
    parser = FormatParser(TOOL_PARSERS[name], None, FUNCTIONS)
    events = [event for character in text for event in parser.feed(character)]
    if '"arguments": {"city": "Zürich", "days": [1, 2]}, "name"' in text:
        return  # without the name there is nobody to give them to
    assert sum(isinstance(event, Arguments) for event in events) >= len(WEATHER) / 2


@pytest.mark.parametrize(("name", "text"), [*DOCUMENTED, *TWO])
def test_a_call_cut_off_anywhere(name: str, text: str) -> None:
    """Up to its name it is text; from then on a call with as much of its arguments as there is."""
    for end in range(len(text)):
        content, reasoning, calls = parse(name, text[:end])
        assert reasoning == ""
        if not calls:
            assert content == text[:end]
            continue
        assert text[:end].endswith(content)  # the next call, up to its name
        assert not content or (name, text) in TWO
        assert calls[0][0] == "get_weather"
        assert WEATHER.startswith(calls[0][1]) or calls[0][1] == "{}"


@pytest.mark.parametrize(("name", "text"), [*DOCUMENTED, *TWO])
def test_without_functions_all_is_text(name: str, text: str) -> None:
    same(name, text, (text, "", []), functions=())


@pytest.mark.parametrize(("name", "text", "expected"), MISTAKES)
def test_a_mistake_in_a_call_does_not_lose_it(name: str, text: str, expected: tuple[str, Calls]) -> None:
    same(name, text, (expected[0], "", expected[1]))


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_what_is_no_call_stays_text(name: str, text: str) -> None:
    same(name, text, (text, "", []))
    same(name, f"  {text} \n", (f"  {text} \n", "", []))


def test_the_ids_that_models_give() -> None:
    def identities(name: str, text: str) -> list[str | None]:
        events = FormatParser(TOOL_PARSERS[name], None, FUNCTIONS).feed(text)
        return [event.identity for event in events if isinstance(event, CallStart)]

    argument = "<|tool_call_argument_begin|>{}"
    assert identities("kimi_k2", kimi(f"functions.now:3{argument}", f"now:1{argument}")) == ["functions.now:3", None]
    assert identities("mistral", "[TOOL_CALLS]now[CALL_ID]abc123DEF[ARGS]{}[TOOL_CALLS]now[CALL_ID]ä[ARGS]{}") == [
        "abc123DEF",
        None,
    ]
    assert TOOL_PARSERS["kimi_k2"].identity("now", 4) == "functions.now:4"
    made = TOOL_PARSERS["mistral"].identity("now", 0)
    assert len(made) == 9
    assert made.isalnum()


@pytest.mark.parametrize(
    ("text", "opened", "content", "reasoning"),
    [
        ("<think>\nHm.\n\nSo.\n</think>\n\n  Yes.\n", False, "  Yes.\n", "Hm.\n\nSo."),
        ("Hm.\n</think>\n\nYes.", True, "Yes.", "Hm."),
        ("<think>\nHm.\n</think>Yes.", True, "Yes.", "Hm."),
        ("\n<think>Hm.", False, "", "Hm."),
        ("<think>\n\n</think>\n\nYes.", False, "Yes.", ""),
        ("Hm.\n", True, "", "Hm."),
        ("No </think> thought <think> at </think> all.", False, "No </think> thought <think> at </think> all.", ""),
        ("</think>Yes.", True, "Yes.", ""),
        ("</think>Yes.", False, "</think>Yes.", ""),
        (" <thin", False, " <thin", ""),
        (" \n", False, " \n", ""),
        ("Hm </th", True, "", "Hm </th"),
    ],
)
def test_reasoning(text: str, opened: bool, content: str, reasoning: str) -> None:
    for size in (1, 2, 5, 100):
        assert parse(None, text, size, ANGLE, opened=opened) == (content, reasoning, [])
        assert parse("hermes", text, size, ANGLE, opened=opened) == (content, reasoning, [])


def test_mistral_thinks_between_brackets() -> None:
    text = '[THINK]Hm [1].[/THINK]Yes.[TOOL_CALLS]now[ARGS]{"a": 1}'
    same("mistral", text, ("Yes.", "Hm [1].", [("now", '{"a": 1}')]), think=SQUARE)


def test_a_call_amid_reasoning() -> None:
    """Models forget to end their thoughts. But only a function of the request is called in them."""
    call = '<tool_call>\n{"name": "NAME", "arguments": {}}\n</tool_call>'
    text = f"<think>\nI call {call.replace('NAME', 'other')}, so:\n{call.replace('NAME', 'now')}"
    thought = f"I call {call.replace('NAME', 'other')}, so:"
    same("hermes", text, ("", thought, [("now", "{}")]), think=ANGLE)
    same("hermes", f"{text}\nMore.\n</think>\nYes.", ("Yes.", f"{thought}More.", [("now", "{}")]), think=ANGLE)
    text = f"Hm.{kimi('functions.now:0<|tool_call_argument_begin|>{}')}"
    same("kimi_k2", text, ("", "Hm.", [("now", "{}")]), think=ANGLE, opened=True)


def test_where_a_marker_is_a_control_token_its_letters_are_letters() -> None:
    family = TOOL_PARSERS["mistral"]
    parser = FormatParser(family, SQUARE, FUNCTIONS, controls=[*family.markers, *SQUARE.markers])
    events = parser.control("[THINK]") + parser.feed("Hm [/THINK]") + parser.control("[/THINK]")
    events += parser.feed("[TOOL_CALLS]now{}") + parser.control("[TOOL_CALLS]") + parser.feed("now")
    events += parser.control("[ARGS]") + parser.feed('{"a": "[TOOL_CALLS]') + parser.control("[TOOL_CALLS]")
    events += parser.feed("now{}") + parser.control("[ARGS]") + parser.finish()
    assert summary(events) == ("[TOOL_CALLS]now{}", "Hm [/THINK]", [("now", '{"a": "[TOOL_CALLS]'), ("now", "{}")])


def test_a_control_token_ends_a_string_that_was_left_open() -> None:
    family = TOOL_PARSERS["mistral"]
    for end in ("", "\\", "\\\\"):
        parser = FormatParser(family, None, FUNCTIONS, controls=family.markers)
        events = parser.control("[TOOL_CALLS]") + parser.feed('now{"a": "' + end) + parser.control("[TOOL_CALLS]")
        events += parser.feed("get_weather{}") + parser.finish()
        assert summary(events) == ("", "", [("now", '{"a": "' + end), ("get_weather", "{}")])


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("hermes", '<tool_call>{"name": "now", "arguments": {}}', '{"other": 1}'),
        ("phi4_mini_json", 'functools[{"name": "now", "arguments": {}}, ', '{"name": 1}]'),
        (
            "kimi_k2",
            "<|tool_call_begin|>now<|tool_call_argument_begin|>{}<|tool_call_end|>",
            "<|tool_call_begin|>x<|tool_call_end|>",
        ),
        ("kimi_k2", "<|tool_call_begin|>now<|tool_call_argument_begin|>{}", "<|tool_call_begin|>x<|tool_call_end|>"),
        ("deepseek_v31", "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>", "<｜tool▁call▁begin｜>x"),
    ],
)
def test_after_a_call_what_is_none_is_text(name: str, good: str, bad: str) -> None:
    same(name, good + bad, (bad, "", [("now", "{}")]))


def test_a_control_token_that_opens_nothing_is_left_out() -> None:
    family = TOOL_PARSERS["mistral"]
    parser = FormatParser(family, None, FUNCTIONS, controls=family.markers)
    events = parser.feed("a") + parser.control("[TOOL_CALLS]") + parser.feed(" b") + parser.control("[ARGS]")
    events += parser.control("[unknown]") + parser.feed("c") + parser.finish()
    assert summary(events) == ("a bc", "", [])


@pytest.mark.parametrize("size", [1000, MAX_HEAD * 3])
def test_no_more_than_so_much_is_held_back(size: int) -> None:
    head = '<tool_call>{"arguments": {"a": "'
    text = head + "x" * (MAX_HEAD * 2) + '"}, "name": "now"}</tool_call>'
    assert parse("hermes", text, size) == (text, "", [])
    fits = head + "x" * (MAX_HEAD // 2) + '"}, "name": "now"}</tool_call>'
    assert [name for name, _ in parse("hermes", fits, size)[2]] == ["now"]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 20_000,
        '<tool_call>{"a":' * 20_000,
        '<tool_call>{"name":"now","arguments":' + "[" * 200_000,
        '<tool_call>{"function":' + '{"function":' * 5_000,
        " " * 200_000,
        "<think>" + "\n" * 200_000,
        '<tool_call>{"name":"now","arguments":"' + "\\" * 200_000,
    ],
)
@pytest.mark.timeout(10)
def test_hostile_texts_take_linear_time(text: str) -> None:
    content, _, calls = parse("hermes", text, 5, ANGLE)
    assert calls or content == text or not text.removeprefix("<think>").strip()
