"""The text of a conversation before any of it is a prompt: how much there is, and what of it is sure to be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]


def written(value: Any, enough: int) -> int:
    """Characters of all texts in `value`, keys and all, and one for each thing else. Counts no further than `enough`.

    So it takes as long for a few sentences as for megabytes.
    """
    count, left = 0, [value]
    while left and count < enough:
        each = left.pop()
        count += len(each) if isinstance(each, str) else 1
        if isinstance(each, Mapping):
            left += each.keys()
            left += each.values()
        elif isinstance(each, list | tuple):
            left += each
    return count


def contents(messages: Messages) -> Iterator[str]:
    """What each message says."""
    return (text for message in messages if isinstance(text := message.get("content"), str))


def harmony_texts(messages: Messages, tools: Messages, variables: Mapping[str, Any]) -> Iterator[str]:
    """What Harmony's encoder puts in a prompt in any case. It may put more there: schemas, its own words."""
    yield from contents(messages)
    yield from (value for value in variables.values() if isinstance(value, str))
    for tool in tools:
        function = tool["function"]
        yield function["name"]
        yield function.get("description") or ""
    for message in messages:
        for call in _calls(message):
            yield call["function"]["name"]
            if isinstance(arguments := call["function"].get("arguments"), str):
                yield arguments
    for message in reversed(messages):
        if _answers(message):
            return  # what was thought before an answer is left out
        yield _thought(message)


def _calls(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (message.get("tool_calls") or ()) if message.get("role") == "assistant" else ()


def _thought(message: Mapping[str, Any]) -> str:
    if message.get("role") != "assistant":
        return ""
    return message.get("reasoning_content") or message.get("reasoning") or ""


def _answers(message: Mapping[str, Any]) -> bool:
    said = message.get("content") or not _thought(message)
    return message.get("role") == "assistant" and bool(said) and not _calls(message)
