"""Items of the Responses API and the conversation that the chat path renders.

What came in is kept in one form (`listed`), with an id for each item, so that it can be stored and shown again;
`conversation` makes chat messages of kept items, whoever made them.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..http.errors import bad_request
from ..http.schema.chat import Part
from ..text.messages_in import TEXT_PARTS
from .input_items import CallItem, InputItem, MessageItem, ReasoningItem, ReferenceItem, ResultItem

Kept = dict[str, Any]
"""An item as the store has it and as clients see it."""

_SEAL = "yardmaster:1:"


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def seal(thought: str) -> str:
    """Reasoning as `encrypted_content`, for clients that keep nothing else of it. It is encoded, not secret."""
    return _SEAL + base64.b64encode(thought.encode()).decode("ascii")


def unseal(sealed: str) -> str | None:
    """None for what this server did not make."""
    if not sealed.startswith(_SEAL):
        return None
    try:
        return base64.b64decode(sealed.removeprefix(_SEAL), validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def listed(given: str | Sequence[InputItem], found: Mapping[str, Kept]) -> list[Kept]:
    """The request's `input` as kept items. `found`: items by id, for references. Raises ApiError 400."""
    if isinstance(given, str):
        given = [MessageItem(role="user", content=given)]
    return [_kept(item, f"input[{place}]", found) for place, item in enumerate(given)]


def references(given: str | Sequence[InputItem] | None) -> list[str]:
    """The ids that `input` refers to."""
    return [item.id for item in given or () if isinstance(item, ReferenceItem)] if not isinstance(given, str) else []


def _kept(item: InputItem, path: str, found: Mapping[str, Kept]) -> Kept:
    match item:
        case MessageItem():
            return _message(item, path)
        case ReasoningItem():
            return _reasoning(item, path)
        case CallItem():
            head = {"id": item.id or new_id("fc"), "type": "function_call", "status": item.status or "completed"}
            return {**head, "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        case ResultItem():
            output: Any = item.output
            if not isinstance(output, str):
                output = [_part(part, "input_text", f"{path}.output[{at}]") for at, part in enumerate(output)]
            head = {"id": item.id or new_id("fco"), "type": "function_call_output"}
            return {**head, "status": item.status or "completed", "call_id": item.call_id, "output": output}
        case ReferenceItem():
            if item.id not in found:
                message = f"{path}.id: no item of this id is stored; send the item itself"
                raise bad_request(message, f"{path}.id", "item_not_found")
            return found[item.id]


def _message(item: MessageItem, path: str) -> Kept:
    kind = "output_text" if item.role == "assistant" else "input_text"
    if isinstance(item.content, str):
        content = [_text_part(kind, item.content)]
    else:
        content = [_part(part, kind, f"{path}.content[{at}]") for at, part in enumerate(item.content)]
    kept = {"id": item.id or new_id("msg"), "type": "message", "status": item.status or "completed", "role": item.role}
    if item.role == "assistant" and item.phase is not None:
        kept["phase"] = item.phase
    return {**kept, "content": content}


def _part(part: Part, kind: str, path: str) -> Kept:
    """A part that is text, under the one name that it has where it stands."""
    if part.type not in TEXT_PARTS:
        message = f"{path}.type: this model takes text only, and no {part.type[:40]!r}"
        raise bad_request(message, f"{path}.type", "unsupported_parameter")
    text = part.text if part.type != "refusal" else (part.model_extra or {}).get("refusal")
    if not isinstance(text, str):
        raise bad_request(f"{path}: must have a {TEXT_PARTS[part.type]}", path, "missing_required_parameter")
    if part.type == "refusal" and kind == "output_text":
        return {"type": "refusal", "refusal": text}
    return _text_part(kind, text)


def _text_part(kind: str, text: str) -> Kept:
    part: Kept = {"type": kind, "text": text}
    return {**part, "annotations": [], "logprobs": []} if kind == "output_text" else part


def _reasoning(item: ReasoningItem, path: str) -> Kept:
    """`content` rules, then what was sealed, then a summary, which is what other servers give."""
    thoughts = [part.text for part in item.content or () if part.text]
    if not thoughts and item.encrypted_content:
        thought = unseal(item.encrypted_content)
        if thought is None:
            message = f"{path}.encrypted_content: was not made by this server; leave the item out"
            raise bad_request(message, f"{path}.encrypted_content")
        thoughts = [thought]
    summary = [{"type": "summary_text", "text": part.text} for part in item.summary or () if part.text]
    return {
        "id": item.id or new_id("rs"),
        "type": "reasoning",
        "status": item.status or "completed",
        "summary": summary,
        "content": [{"type": "reasoning_text", "text": text} for text in thoughts],
    }


def conversation(kept: Iterable[Kept], instructions: str | None) -> list[dict[str, Any]]:
    """Chat messages. Neighbouring items of the assistant's are one turn, as chat completions have it."""
    messages: list[dict[str, Any]] = [] if not instructions else [{"role": "system", "content": instructions}]
    for by_assistant, run in groupby(kept, _by_assistant):
        if by_assistant:
            messages += _turn(list(run))
        else:
            messages += [_said(item) for item in run]
    return messages


def check_calls(kept: Sequence[Kept], first: int) -> None:
    """Raises ApiError 400 for a result without its call. `first`: from where on items are those of `input`."""
    calls: set[str] = set()
    for place, item in enumerate(kept):
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            path = f"input[{place - first}].call_id" if place >= first else "previous_response_id"
            raise bad_request(f"{path}: no function_call of this id comes before its output", path)


def _by_assistant(item: Kept) -> bool:
    return item["type"] in ("reasoning", "function_call") or item.get("role") == "assistant"


def _said(item: Kept) -> dict[str, Any]:
    if item["type"] == "function_call_output":
        output = item["output"]
        text = output if isinstance(output, str) else _joined(output)
        return {"role": "tool", "tool_call_id": item["call_id"], "content": text}
    return {"role": item["role"], "content": _joined(item["content"])}


def _turn(items: list[Kept]) -> list[dict[str, Any]]:
    """Up to its last call a turn is one message, with what was thought and said before; answers are each their own."""
    last = max((place for place, item in enumerate(items) if item["type"] == "function_call"), default=-1)
    messages = [_merged(items[: last + 1])] if last >= 0 else []
    waiting: list[Kept] = []
    for item in items[last + 1 :]:
        waiting.append(item)
        if item["type"] == "message":
            messages.append(_merged(waiting))
            waiting = []
    return [*messages, _merged(waiting)] if waiting else messages


def _merged(items: list[Kept]) -> dict[str, Any]:
    thoughts, texts, calls = [], [], []
    for item in items:
        if item["type"] == "reasoning":
            thoughts.append(_joined(item["content"] or item["summary"]))
        elif item["type"] == "message":
            texts.append(_joined(item["content"]))
        else:
            function = {"name": item["name"], "arguments": item["arguments"]}
            calls.append({"id": item["call_id"], "type": "function", "function": function})
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts) if texts else None}
    if any(thoughts):
        message["reasoning"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _joined(parts: Sequence[Kept]) -> str:
    return "\n".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in parts)
