"""The bodies of /v1/messages and /v1/messages/count_tokens, in Anthropic's names, with bounds on everything.

As everywhere, unknown fields are ignored and known ones that this server does not do are refused by name. What has a
meaning elsewhere only (`cache_control`, signatures, citations) is taken, and without effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from ...engine.sampling_params import MAX_TOP_K
from ..http.schema.chat import MAX_MESSAGES, MAX_TOOLS
from ..http.schema.fields import MAX_STOP, MAX_TOKENS, Body, ModelName, Name, StopText, Text

MAX_BLOCKS = 4096
MIN_BUDGET = 1024
KNOWN_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")

# Fields that would change the answer, with the values that ask for nothing.
_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "thread": (),
    "compaction": (),
    "container": (),
    "mcp_servers": ([],),
    "output_format": (),
    "speed": ("standard",),
    "fallbacks": ([],),
}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class TextBlock(_Strict):
    type: Literal["text"]
    text: Text
    """The text."""


class ThinkingBlock(_Strict):
    """What the model thought in an earlier turn; the signature is not looked at."""

    type: Literal["thinking"]
    thinking: Text
    """What the model thought, as it came."""
    signature: Text | None = None
    """Not looked at."""


class RedactedThinkingBlock(_Strict):
    """Another server's secret, which no one here can read: the model is not shown it."""

    type: Literal["redacted_thinking"]
    data: Text
    """The model is not shown it."""


class ToolUseBlock(_Strict):
    """A call in an earlier turn. A name that the model made up may be shown to it again."""

    type: Literal["tool_use"]
    id: Name
    """To which a result refers."""
    name: Annotated[str, Field(pattern=r"^\S{1,256}$")]
    """The function."""
    input: dict[str, Any]
    """What it was called with."""


class OtherBlock(_Strict):
    """Anything else (image, document, …): refused by its `type`."""

    type: Annotated[str, Field(max_length=64)]
    """Refused by this name."""


def _tag(*kinds: str) -> Discriminator:
    """Tells blocks apart by their `type`; what is none of `kinds` is "other"."""

    def kind(block: Any) -> str:
        found = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
        return found if isinstance(found, str) and found in kinds else "other"

    tell: Callable[[Any], str] = kind
    return Discriminator(tell)


PlainBlock = Annotated[Annotated[TextBlock, Tag("text")] | Annotated[OtherBlock, Tag("other")], _tag("text")]
PlainBlocks = Annotated[list[PlainBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)]


class ToolResultBlock(_Strict):
    """The answer to a call of the assistant's message before."""

    type: Literal["tool_result"]
    tool_use_id: Name
    """The call that it answers."""
    content: Text | PlainBlocks | None = None
    """A text, or blocks of text."""
    is_error: bool | None = None
    """The model reads `Error: ` before it."""


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedThinkingBlock, Tag("redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[OtherBlock, Tag("other")],
    _tag(*KNOWN_BLOCKS),
]


class Turn(_Strict):
    role: Literal["user", "assistant", "system"]
    """Who speaks."""
    content: Text | Annotated[list[Block], Field(fail_fast=True, max_length=MAX_BLOCKS)]
    """A text, or blocks."""


class ClientTool(_Strict):
    """A function that the model may call, and the client runs."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    """Letters, digits, `_`, `.` and `-`."""
    type: Annotated[str, Field(max_length=64)] | None = None
    """None, or `custom`."""
    description: Text | None = None
    """What it does: the model reads this."""
    input_schema: dict[str, Any] | None = Field(None, description="A JSON schema.")
    input_examples: Annotated[list[dict[str, Any]], Field(max_length=32)] | None = None
    """Shown to the model."""
    strict: bool | None = None
    """Holds the input to the schema, whatever the model would write."""
    defer_loading: bool | None = None
    """Not looked at."""


class ToolUseChoice(_Strict):
    type: Literal["auto", "any", "tool", "none"]
    """Whether, and which, a tool must be called."""
    name: Name | None = Field(None, description="With `tool`: the one that must be called.")
    disable_parallel_tool_use: bool | None = None
    """True: one call at most."""


class Thinking(_Strict):
    type: Literal["enabled", "disabled", "adaptive"]
    """Whether thinking is shown."""
    budget_tokens: Annotated[int, Field(ge=MIN_BUDGET, le=MAX_TOKENS)] | None = None
    """Told to the model as an effort: low, medium or high."""
    display: Literal["summarized", "omitted"] | None = None
    """The thinking as it is, or none of it."""


class OutputFormat(_Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema", description="A JSON schema.")


class OutputConfig(_Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """How much the model thinks."""
    format: OutputFormat | None = None
    """The form of the answer."""


class CountTokensRequest(Body):
    """Everything that decides how messages become a prompt."""

    model: ModelName = Field(description="One of /v1/models.")  # type: ignore[assignment]
    messages: Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    """The conversation. When the last is the assistant's, the answer goes on where it ends."""
    system: Text | PlainBlocks | None = None
    """Comes first in the prompt."""
    tools: Annotated[list[ClientTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    """Functions that the model may call."""
    tool_choice: ToolUseChoice | None = None
    """`auto` unless told otherwise."""
    thinking: Thinking | None = None
    """Whether thinking is shown, and how much of it there is."""
    output_config: OutputConfig | None = None
    """Effort, and the form of the answer."""

    def not_offered(self) -> str | None:
        for name, value in (self.model_extra or {}).items():
            if value is not None and name in _NOT_OFFERED and value not in _NOT_OFFERED[name]:
                return name
        return None


class MessagesRequest(CountTokensRequest):
    """What is not given is taken from the checkpoint's generation_config.json."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    """Thinking and answer together."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """0 takes the likeliest token always."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] | None = None
    """Only so many of the likeliest tokens; 0: all."""
    stop_sequences: Annotated[list[StopText], Field(fail_fast=True, max_length=MAX_STOP)] | None = None
    """Looked for in the answer, not in thinking or calls."""
    stream: bool | None = False
    """Server-sent events as the answer comes."""
    metadata: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    """Without effect."""
    service_tier: Literal["auto", "standard_only"] | None = None
    """Without effect."""
