"""OpenAI messages to the plain dicts that chat templates take. Only text is served: nothing is ever fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .json_bounds import JsonCount

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of content parts that are text, and the field it stands in."""


class MessageError(ValueError):
    """A message that cannot be served. `param` is its path, as in `messages.2.content.0`. HTTP: 400."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def plain_messages(messages: Sequence[Mapping[str, Any]], raw_arguments: bool = False) -> list[dict[str, Any]]:
    """Content parts joined by newlines (as vLLM does), null fields dropped, tool call arguments read from their JSON.

    With `raw_arguments` these stay the text they are, JSON or not: what the model got wrong once must not end the
    conversation. Raises MessageError on a part that is not text (image, audio, video, file), on arguments that are no
    object, and on what is no list of messages.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise MessageError("messages must be a list", "messages")
    count = None if raw_arguments else JsonCount()
    return [_plain(message, f"messages.{place}", count) for place, message in enumerate(messages)]


def _plain(message: Mapping[str, Any], path: str, count: JsonCount | None) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MessageError("a message must be an object with a role and content", path)
    plain = {name: value for name, value in message.items() if value is not None}
    content = plain.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        plain["content"] = "\n".join(_text(part, f"{path}.content.{place}") for place, part in enumerate(content))
    elif content is not None and not isinstance(content, str):
        raise MessageError("content must be a string or a list of text parts", f"{path}.content")
    refusal = plain.get("refusal")
    if plain.get("role") == "assistant" and not plain.get("content") and isinstance(refusal, str):
        plain["content"] = refusal  # templates know of none
    calls = plain.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise MessageError("tool_calls must be a list", f"{path}.tool_calls")
        plain["tool_calls"] = [_call(call, f"{path}.tool_calls.{place}", count) for place, call in enumerate(calls)]
    return plain


def _text(part: Any, path: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        shown = repr(kind[:40]) if isinstance(kind, str) else "this kind"
        raise MessageError(f"this model takes text only; content parts of type {shown} are not supported", path)
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise MessageError(f"{TEXT_PARTS[kind]} must be a string", f"{path}.{TEXT_PARTS[kind]}")
    return text


def _call(call: Any, path: str, count: JsonCount | None) -> Any:
    """Templates print `arguments` as JSON themselves, so they must be an object here and not a string of JSON."""
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        raise MessageError("a tool call must be an object with a function", path)
    if count is None:
        if not isinstance(call["function"].get("name"), str):
            raise MessageError("a call's function must have a name", f"{path}.function.name")
        return call
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        if excess := count.excess(arguments.encode("utf-8", "surrogatepass")):
            raise MessageError(f"the arguments of all calls hold {excess}", f"{path}.function.arguments")
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise MessageError("arguments must be a JSON object", f"{path}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}
