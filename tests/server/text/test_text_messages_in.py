"""OpenAI messages become plain dicts, or an error that names the place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from yardmaster.server.text.messages_in import MessageError, plain_messages


def test_text_parts_nulls_and_arguments() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "é"]}'}}
    empty = {"id": "d", "type": "function", "function": {"name": "g", "arguments": ""}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]},
        {"role": "assistant", "content": None, "name": None, "tool_calls": [call, empty]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "tool", "content": []},
    ]
    before = repr(messages)
    plain = plain_messages(messages)
    assert plain[0] == {"role": "user", "content": "a\nb\nc"}
    assert plain[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": [1, "é"]}}
    assert plain[1]["tool_calls"][1]["function"]["arguments"] == {}
    assert set(plain[1]) == {"role", "tool_calls"}
    assert plain[2]["content"] == "no"
    assert plain[3]["content"] == ""
    assert repr(messages) == before


def test_a_refusal_is_what_the_assistant_said() -> None:
    for given, expected in (
        ({"role": "assistant", "content": None, "refusal": "no"}, "no"),
        ({"role": "assistant", "content": "", "refusal": "no"}, "no"),
        ({"role": "assistant", "content": "yes", "refusal": "no"}, "yes"),
        ({"role": "assistant", "content": "yes", "refusal": None}, "yes"),
        ({"role": "user", "refusal": "no"}, None),
    ):
        (plain,) = plain_messages([given])
        assert plain.get("content") == expected


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}]}, "messages.1.content.0"),
        ({"content": ["a", {"type": "input_audio", "input_audio": {}}]}, "messages.1.content.1"),
        ({"content": [{"type": "video_url"}]}, "messages.1.content.0"),
        ({"content": [{"type": "file", "file": {"file_id": "x"}}]}, "messages.1.content.0"),
        ({"content": [{"type": ["text"]}]}, "messages.1.content.0"),
        ({"content": [{"text": "untyped"}]}, "messages.1.content.0"),
        ({"content": [{"type": "text", "text": 7}]}, "messages.1.content.0.text"),
        ({"content": [7]}, "messages.1.content.0"),
        ({"content": {"a": 1}}, "messages.1.content"),
        ({"content": 7}, "messages.1.content"),
        ({"tool_calls": "x"}, "messages.1.tool_calls"),
        ({"tool_calls": [7]}, "messages.1.tool_calls.0"),
        ({"tool_calls": [{"function": {"arguments": "[1]"}}]}, "messages.1.tool_calls.0.function.arguments"),
        ({"tool_calls": [{"function": {"arguments": "{"}}]}, "messages.1.tool_calls.0.function.arguments"),
        ({"tool_calls": [{"function": {"arguments": "[" * 99999}}]}, "messages.1.tool_calls.0.function.arguments"),
    ],
)
def test_what_is_not_text_is_refused_with_its_path(message: dict[str, Any], param: str) -> None:
    with pytest.raises(MessageError) as caught:
        plain_messages([{"role": "user", "content": "ok"}, {"role": "assistant"} | message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("messages", "param"), [("hi", "messages"), ({"role": "user"}, "messages"), ([1], "messages.0")]
)
def test_what_is_no_list_of_messages(messages: Any, param: str) -> None:
    with pytest.raises(MessageError) as found:
        plain_messages(messages)
    assert found.value.param == param


def test_raw_arguments_stay_as_they_are() -> None:
    for arguments in ('{"a":  1}', "not JSON", "", "[" * 99999):
        message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        plain = plain_messages([message], raw_arguments=True)
        assert plain[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": arguments}
    for call in (7, {}, {"function": {"arguments": "{}"}}, {"function": {"name": 7}}):
        with pytest.raises(MessageError):
            plain_messages([{"role": "assistant", "tool_calls": [call]}], raw_arguments=True)


def test_the_arguments_of_all_calls_are_counted_before_they_are_parsed() -> None:
    def turn(arguments: str, count: int) -> dict[str, Any]:
        return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}] * count}

    honest = json.dumps({"rows": [[i, 'a [quoted] "text"', {}] for i in range(1000)]})
    assert len(plain_messages([turn(honest, 10)])[0]["tool_calls"]) == 10
    lists = "{" + '"a":[' + "[]," * 5000 + "1]}"
    with pytest.raises(MessageError, match="more than 32768 lists and objects") as found:
        plain_messages([turn(lists, 4), turn(lists, 4)])
    assert found.value.param == "messages.1.tool_calls.2.function.arguments"
