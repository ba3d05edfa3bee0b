"""A call's arguments: valid ones stay what they are, and whatever else comes is one JSON object, at every chunking."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yardmaster.server.messages.tool_input import MAX_DEPTH, ToolInput

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def parts(text: str, size: int = 1) -> tuple[list[str], bool]:
    mender = ToolInput()
    out = [mender.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return [*out, mender.finish()], mender.mended


def mended(text: str) -> Any:
    """The object, which must be the same at every size of chunks."""
    results = {("".join(out), flag) for out, flag in (parts(text, size) for size in (1, 2, 3, 7, len(text) + 1))}
    assert len(results) == 1
    return json.loads(results.pop()[0])


@settings(max_examples=200)
@given(OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]), st.integers(1, 9))
def test_valid_objects_stay_what_they_are(value: dict[str, Any], ascii: bool, indent: Any, size: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    out, flag = parts(text, size)
    assert json.loads("".join(out)) == value
    assert not flag


@settings(max_examples=200)
@given(OBJECTS, st.data())
def test_what_breaks_off_is_an_object(value: dict[str, Any], data: Any) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    found = mended(cut)
    assert isinstance(found, dict)
    keys = list(value)
    assert list(found) == keys[: len(found)]
    for key in list(found)[:-1]:
        assert found[key] == value[key]


@settings(max_examples=400)
@given(
    st.lists(
        st.sampled_from(
            [*'{}[],:"\\ \n\tx1-.eE+u', '{"a":', '"b"', "true", "None", "\\ud83d", "\\udE00", "\\u00", "é🙂", "'"]
        ),
        max_size=30,
    ).map("".join)
)
def test_anything_is_an_object(text: str) -> None:
    found = mended(text)
    assert isinstance(found, dict)
    try:
        expected = json.loads(text)
        expected = json.loads(json.dumps(expected, ensure_ascii=False).encode())  # raises on half characters
    except (ValueError, RecursionError):
        assert parts(text)[1] or found == {} or text.strip() == ""
        return
    assert found == (expected if isinstance(expected, dict) else {"arguments": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": True, "b": [None, False]}', {"a": True, "b": [None, False]}),
        ('{"a": [1, 2,], "b": 3,}', {"a": [1, 2], "b": 3}),
        ('{"a": "x\ny\tz"}', {"a": "x\ny\tz"}),
        ('{"a": "\\d+ it\\\'s \\u12"}', {"a": "\\d+ it's \\u12"}),
        ('{"a": "\\ud83d\\ude00 \\ud83d \\ude00"}', {"a": "😀 \ufffd \ufffd"}),
        ('{"a\\qb": 1}', {"a\\qb": 1}),
        ('{"a": 1}}', {"a": 1}),
        ('{"a": 1} and more', {"a": 1}),
        ('{"a": 1 "b": 2}', {"a": 1}),
        ('{"a": 1, b: 2}', {"a": 1}),
        ('{"a": [1, {"b": 2]}', {"a": [1, {"b": 2}]}),
        ('{"a": [1, {"b": "x', {"a": [1, {"b": "x"}]}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, "b":', {"a": 1}),
        ('{"a": "x\\', {"a": "x"}),
        ('{"a": tru', {}),
        ('{"b": 1, "a":}', {"b": 1}),
        ('{"a":}', {"arguments": '{"a":}'}),
        ("", {}),
        (" {", {}),
        ("print('x')\n", {"arguments": "print('x')\n"}),
        ('["a", "b"]', {"arguments": '["a", "b"]'}),
        ("{'a': 1}", {"arguments": "{'a': 1}"}),
        ('{"a": nope, "b": 1}', {"arguments": '{"a": nope, "b": 1}'}),
        ('"\\\n', {"arguments": '"\\\n'}),
    ],
)
def test_mending(text: str, expected: dict[str, Any]) -> None:
    assert mended(text) == expected


def test_it_comes_as_it_is_written() -> None:
    mender = ToolInput()
    assert [mender.feed(text) for text in ('{"pa', 'th": ', '"/tm', "p/", 'x", ', '"n"', ":", " 1", "2,", '"')] == [
        *("", "", '{"path":"/tm', "p/", 'x"', "", "", "", ',"n":12', ""),
    ]
    assert mender.finish() == "}"


def test_depth_and_length_are_bounded() -> None:
    deep = '{"a":' * 5000
    assert json.dumps(mended(deep)).count("{") == MAX_DEPTH
    assert mended('{"b": 1, "a": ' + "9" * 5000 + "}") == {"b": 1}


@pytest.mark.parametrize("part", ["\\d", "\\ud83d", "x", '\\"', "\n", "é"])
def test_long_strings_take_linear_time(part: str) -> None:
    text = '{"a": "' + part * 200_000 + '"}'
    mender = ToolInput()
    assert json.loads(mender.feed(text) + mender.finish())["a"]
