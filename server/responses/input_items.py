"""The items of a request's `input`. Inside them unknown fields are ignored: clients send back what SDKs have added."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from ..http.schema.chat import Part
from ..http.schema.fields import Text

ITEM_TYPES = ("message", "reasoning", "function_call", "function_call_output", "item_reference")

Identity = Annotated[str, Field(min_length=1, max_length=256)]
Status = Literal["in_progress", "completed", "incomplete"]
Parts = Annotated[list[Part], Field(fail_fast=True, max_length=4096)]


class Item(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    id: Identity | None = None
    """As the server gave it; else it gets one."""
    status: Status | None = None
    """As the server gave it."""


class MessageItem(Item):
    """What somebody said. `phase` tells an assistant's preamble from its answer."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    """Who speaks."""
    content: Text | Parts
    """A text, or parts of text."""
    phase: Literal["commentary", "final_answer"] | None = None
    """Of the assistant: a preamble before calls, or the answer."""


class ReasoningItem(Item):
    """What the model thought, as it came: in `content`, or sealed in `encrypted_content`."""

    type: Literal["reasoning"]
    summary: Parts | None = None
    """Read where there is neither of the others."""
    content: Parts | None = None
    """What the model thought; rules."""
    encrypted_content: Text | None = None
    """The same as this server sealed it."""


class CallItem(Item):
    """A call in an earlier turn: a name that the model made up may be shown to it again."""

    type: Literal["function_call"]
    call_id: Identity
    """To which the output refers."""
    name: Annotated[str, Field(pattern=r"^\S{1,256}$")]
    """The function."""
    arguments: Annotated[str, Field(max_length=1 << 20)]
    """What it was called with: JSON, as the model wrote it."""


class ResultItem(Item):
    """What a call returned."""

    type: Literal["function_call_output"]
    call_id: Identity
    """The call that it answers."""
    output: Text | Parts
    """A text, or parts of text."""


class ReferenceItem(BaseModel):
    """An item that the store has already."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    type: Literal["item_reference"] | None = None
    """May be left out."""
    id: Identity
    """Of an item of a response that is kept."""


def _kind(item: Any) -> Any:
    """A message may come without its type, and so may a reference."""
    if isinstance(item, dict):
        given = item.get("type")
        return given if given is not None else "message" if "role" in item else "item_reference"
    return getattr(item, "type", None)


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message=f"must be an item whose type is one of {', '.join(ITEM_TYPES)}",
    ),
]
