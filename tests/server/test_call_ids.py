"""A call's id in /v1/messages: clients see Anthropic's kind, and the template the one that its family writes."""

from __future__ import annotations

from typing import Any

import pytest

from yardmaster.server.messages.call_id import shown, written
from yardmaster.server.messages.conversation import chat_request
from yardmaster.server.messages.schema import CountTokensRequest
from yardmaster.server.text.formats.registry import TOOL_PARSERS


@pytest.mark.parametrize("tools", TOOL_PARSERS)
def test_what_a_family_writes_comes_back(tools: str) -> None:
    for place in range(3):
        identity = TOOL_PARSERS[tools].identity("get_weather", place)
        assert shown(identity).startswith("toolu_")
        assert written(shown(identity), "get_weather", tools) == identity


@pytest.mark.parametrize("tools", [*TOOL_PARSERS, None])
@pytest.mark.parametrize(
    "identity", ["toolu_1", "toolu_01A09q90qw90lq917835lq9u", "a", "", "toolu_", "toolu_functions.now:0", "call_1"]
)
def test_what_the_client_has_chosen_stays(tools: str | None, identity: str) -> None:
    assert written(identity, "get_weather", tools) == identity


def test_calls_and_results_go_together() -> None:
    ids = ["toolu_functions.now:0", "toolu_mine"]
    calls: list[Any] = [{"type": "tool_use", "id": each, "name": "now", "input": {}} for each in ids]
    results = [{"type": "tool_result", "tool_use_id": each, "content": "12:00"} for each in ids]
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]
    body = CountTokensRequest.model_validate({"messages": turns, "model": "x"})
    messages = chat_request(body, tools="kimi_k2").messages
    expected = ["functions.now:0", "toolu_mine"]
    assert [call.id for call in messages[1].tool_calls or ()] == expected
    assert [message.tool_call_id for message in messages[2:]] == expected
    assert [message.tool_call_id for message in chat_request(body).messages[2:]] == ids
