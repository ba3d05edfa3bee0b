"""What holds for any text: no chunking makes a difference, nothing raises, and nothing is lost."""

# ruff: noqa: RUF001 (the bars are DeepSeek's own)

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.text.formats.base import Arguments, CallEnd, CallStart, Content, Reasoning
from yardmaster.server.text.formats.parser import FormatParser
from yardmaster.server.text.formats.reasoning import ANGLE, SQUARE
from yardmaster.server.text.formats.registry import TOOL_PARSERS

FUNCTIONS = ("f", "get_weather")
NAMES = sorted(TOOL_PARSERS)
QUICK = settings(max_examples=100, suppress_health_check=list(HealthCheck))
Item = str | tuple[str]  # a text, or (marker,) for a control token


def parse(parser: FormatParser, items: list[Item]) -> list[Any]:
    """Checks the grammar of the events, and joins texts that follow each other."""
    events: list[Any] = []
    for item in items:
        events += parser.feed(item) if isinstance(item, str) else parser.control(item[0])
    events += parser.finish()
    assert not parser.holds
    joined: list[Any] = []
    calling = False
    for event in events:
        if isinstance(event, CallStart):
            assert not calling
            assert event.name.strip() == event.name != ""
            calling = True
        elif isinstance(event, CallEnd):
            assert isinstance(joined[-1], Arguments)
            calling = False
        else:
            assert event.text
            assert event.text.encode()  # no surrogate
            assert calling == isinstance(event, Arguments)
        if joined and type(joined[-1]) is type(event) and not isinstance(event, CallStart):
            joined[-1] = type(event)(joined[-1].text + event.text)
        else:
            joined.append(event)
    assert not calling
    return joined


def cut(draw: Any, items: list[Item]) -> list[Item]:
    """The same in other chunks."""
    pieces: list[Item] = []
    for item in items:
        if not isinstance(item, str):
            pieces.append(item)
            continue
        places = sorted(draw(st.lists(st.integers(0, len(item)), max_size=8)))
        pieces += [item[start:end] for start, end in zip([0, *places], [*places, len(item)], strict=True)]
    return pieces


def characters(items: list[Item]) -> list[Item]:
    return [piece for item in items for piece in (item if isinstance(item, str) else (item,))]


def fragments(name: str) -> st.SearchStrategy[str]:
    markers = [*TOOL_PARSERS[name].markers, *ANGLE.markers]
    parts = [marker[:size] for marker in markers for size in (3, len(marker) - 1)]
    words = ['{"name": "f", "arguments": {}}', '{"name": "f"', ', "parameters": {"a": 1}}', "f", "functions.f:0", "{}"]
    words += [
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        ",",
        ":",
        ";",
        " ",
        "\n",
        "é",
        "🙂",
        "```json\n",
        "null",
        '"name":',
        "function",
    ]
    return st.lists(
        st.one_of(st.sampled_from([*markers, *markers, *parts, *words]), st.text(max_size=3)), max_size=14
    ).map("".join)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_make_no_difference_and_nothing_raises(name: str) -> None:
    family = TOOL_PARSERS[name]

    @QUICK
    @given(st.data(), fragments(name), st.booleans(), st.booleans())
    def check(data: Any, text: str, thinks: bool, opened: bool) -> None:
        def parser() -> FormatParser:
            return FormatParser(family, ANGLE if thinks else None, FUNCTIONS, opened)

        whole = parse(parser(), [text])
        assert parse(parser(), cut(data.draw, [text])) == whole
        assert parse(parser(), characters([text])) == whole
        if not thinks and not any(isinstance(event, CallStart) for event in whole):
            assert whole == ([Content(text)] if text else [])

    check()


@pytest.mark.parametrize("name", NAMES)
def test_control_tokens_anywhere(name: str) -> None:
    family, think = TOOL_PARSERS[name], SQUARE if name == "mistral" else ANGLE
    controls = [*family.markers, *think.markers]
    tokens = st.sampled_from(controls).map(lambda marker: (marker,))

    @QUICK
    @given(st.data(), st.lists(st.one_of(tokens, fragments(name)), max_size=8))
    def check(data: Any, items: list[Item]) -> None:
        def parser() -> FormatParser:
            return FormatParser(family, think, FUNCTIONS, controls=controls)

        whole = parse(parser(), items)
        assert parse(parser(), cut(data.draw, items)) == whole
        assert parse(parser(), characters(items)) == whole
        if not any(isinstance(event, CallStart) for event in whole):
            kept = "".join(event.text for event in whole)
            texts = "".join(item for item in items if isinstance(item, str))
            assert "".join(kept.split()) == "".join(texts.split())

    check()


WORDS = st.text("abc é🙂.,{}[]:'\n", max_size=12).map(str.strip)
OBJECTS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=6)
        | st.sampled_from(["<tool_call>", "}", "[ARGS]"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


def written(name: str, calls: list[tuple[str, str]]) -> str:
    """Calls in the family's own form: an independent writer."""
    match name:
        case "hermes":
            return "\n".join(f'<tool_call>\n{{"name": "{n}", "arguments": {a}}}\n</tool_call>' for n, a in calls)
        case "mistral":
            return "".join(f"[TOOL_CALLS]{n}[ARGS]{a}" for n, a in calls)
        case "kimi_k2":
            bodies = [f"functions.{n}:{i}<|tool_call_argument_begin|>{a}" for i, (n, a) in enumerate(calls)]
            section = "".join(f"<|tool_call_begin|>{body}<|tool_call_end|>" for body in bodies)
            return f"<|tool_calls_section_begin|>{section}<|tool_calls_section_end|>"
        case "deepseek_v3":
            bodies = [f"function<｜tool▁sep｜>{n}\n```json\n{a}\n```" for n, a in calls]
        case "deepseek_v31":
            bodies = [f"{n}<｜tool▁sep｜>{a}" for n, a in calls]
        case "phi4_mini_json":
            return "functools[" + ", ".join(f'{{"name": "{n}", "arguments": {a}}}' for n, a in calls) + "]"
        case "llama3_json":
            return "<|python_tag|>" + "; ".join(f'{{"name": "{n}", "parameters": {a}}}' for n, a in calls)
    section = "".join(f"<｜tool▁call▁begin｜>{body}<｜tool▁call▁end｜>" for body in bodies)
    return f"<｜tool▁calls▁begin｜>{section}<｜tool▁calls▁end｜>"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(name: str) -> None:
    calls = st.lists(st.tuples(st.sampled_from(["f", "get_weather", "x.y-z"]), OBJECTS), min_size=1, max_size=3)

    @QUICK
    @given(st.data(), WORDS, WORDS, calls, st.booleans(), st.sampled_from([None, 1]))
    def check(data: Any, thought: str, answer: str, called: Any, ascii: bool, indent: int | None) -> None:
        given = [(n, json.dumps(arguments, ensure_ascii=ascii, indent=indent)) for n, arguments in called]
        text = f"<think>\n{thought}\n</think>\n\n{answer}{written(name, given)}"
        if name == "llama3_json" and answer.startswith("{"):
            return
        events = parse(FormatParser(TOOL_PARSERS[name], ANGLE, FUNCTIONS), cut(data.draw, [text]))
        assert "".join(event.text for event in events if isinstance(event, Reasoning)) == thought
        assert "".join(event.text for event in events if isinstance(event, Content)) == answer
        starts = [event.name for event in events if isinstance(event, CallStart)]
        arguments = [event.text for event in events if isinstance(event, Arguments)]
        assert list(zip(starts, arguments, strict=True)) == given

    check()


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_survived(name: str) -> None:
    """A character more, less, or other, anywhere in a well-formed answer."""
    text = "<think>\nHm.\n</think>\n\nSo." + written(name, [("f", '{"a": "b", "c": [1, {}]}'), ("get_weather", "{}")])

    @QUICK
    @given(st.data())
    def check(data: Any) -> None:
        damaged = text
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(damaged)))
            end = min(len(damaged), start + data.draw(st.integers(0, 3)))
            damaged = damaged[:start] + data.draw(st.text('"{}[]<>|ab\\ \n', max_size=2)) + damaged[end:]
        whole = parse(FormatParser(TOOL_PARSERS[name], ANGLE, FUNCTIONS), [damaged])
        again = parse(FormatParser(TOOL_PARSERS[name], ANGLE, FUNCTIONS), cut(data.draw, [damaged]))
        assert again == whole

    check()
