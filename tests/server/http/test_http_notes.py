"""What is told of the other families' answers where order matters: for /v1/messages and /v1/responses."""

from __future__ import annotations

from typing import Any

import pytest

from yardmaster.server.http.chosen_splitter import chosen_notes
from yardmaster.server.text.formats.registry import ChatFormat


def told(stage: Any, tools: str, *tokens: str) -> list[tuple[str, str, str | None]]:
    """Each of `tokens` is one to the splitter, whatever the stage's tokenizer makes of it."""
    notes = chosen_notes(stage.service(format=ChatFormat(tools)), [], ["get_weather", "now"])
    for text in tokens:
        notes.feed(stage.ids(text))
    notes.finish()
    said = notes.take()
    assert [each.message for each in said] == list(range(1, len(said) + 1))
    return [(each.kind, each.text, each.call and each.call.name) for each in said]


@pytest.mark.parametrize(
    ("tools", "tokens"),
    [
        ("mistral", ["[TOOL_CALLS]get_weather", "[ARGS]", '{"c": 1', "}."]),
        ("mistral", ["[TOOL_CALLS]get_weather[ARGS]", '{"c": 1}.']),
        ("llama3_json", ['{"name": "get_weather", "parameters": {"c": 1', "}}."]),
    ],
)
def test_a_token_ends_a_call_and_begins_a_text(plain: Any, tools: str, tokens: list[str]) -> None:
    assert told(plain, tools, *tokens) == [("call", '{"c": 1}', "get_weather"), ("final", ".", None)]


def test_a_token_ends_a_text_and_begins_a_call(plain: Any) -> None:
    tokens = ["Look", ".[TOOL_CALLS]now", "{}. [TOOL_CALLS]", "now{", "}"]
    assert [(kind, text) for kind, text, _ in told(plain, "mistral", *tokens)] == [
        ("final", "Look."), ("call", "{}"), ("final", ". "), ("call", "{}")
    ]  # fmt: skip
