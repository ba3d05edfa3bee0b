"""The body of POST /v1/responses: what is taken, within which bounds, and what is refused by its name.

Types are strict, as everywhere. Fields at the top that OpenAI does not have are refused as OpenAI does, since a typing
error there would silently change the answer; inside items and tools unknown fields are ignored, because clients send
back what SDKs have added to them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...engine.sampling_params import MAX_TOP_K, SEED_LIMIT
from ..http.schema.chat import MAX_MESSAGES, MAX_TOOLS
from ..http.schema.fields import MAX_TOKENS, Body, Metadata, Name, Text, TokenId
from .input_items import Identity, InputItem

MAX_ITEMS = MAX_MESSAGES


class FunctionTool(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    """Letters, digits, `_`, `.` and `-`."""
    description: Text | None = None
    """What it does: the model reads this."""
    parameters: dict[str, Any] | None = None
    """A JSON schema."""
    strict: bool | None = None
    """Holds the arguments to the schema, whatever the model would write."""
    defer_loading: Literal[False] | None = None
    """Only false."""

    @model_validator(mode="before")
    @classmethod
    def _runs_nothing(cls, tool: Any) -> Any:
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            raise ValueError("must be of type function: this server runs no tools of its own")
        return tool


class FunctionChoice(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    type: Literal["function"]
    name: Name
    """One of the tools."""


class AllowedTools(BaseModel):
    """Which of the tools may be called this time. OpenAI requires `mode`, Open Responses does not."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    """Whether one of them must be called."""
    tools: Annotated[list[FunctionChoice], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]
    """Which of the request's tools."""


class TextFormat(BaseModel):
    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    type: Literal["json_object"]


class JsonSchemaFormat(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, serialize_by_alias=True, use_attribute_docstrings=True)

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    """Shown to gpt-oss with the schema."""
    description: Text | None = None
    """Shown to gpt-oss with the schema."""
    schema_: dict[str, Any] = Field(alias="schema")
    """A JSON schema."""
    strict: bool | None = None
    """The schema binds in any case."""


class TextConfig(BaseModel):
    """`verbosity`: nothing but the middle one is offered."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None = None
    """The form of the answer."""
    verbosity: Literal["medium"] | None = None
    """Only `medium`."""


class Reasoning(BaseModel):
    """A `summary` may be asked for; the reasoning itself is given instead."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    effort: Literal["low", "medium", "high"] | None = None
    """How much the model thinks."""
    summary: Literal["auto", "concise", "detailed"] | None = None
    """May be asked for; the reasoning itself is given."""
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    """An older name of `summary`."""


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    include_obfuscation: Literal[False] | None = None
    """Events are not padded: only false."""


LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
Includable = Literal[
    "message.output_text.logprobs", "reasoning.encrypted_content",
    # Of items that never come here.
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
]  # fmt: skip


class Conversation(Body):
    """What makes the prompt: all that /v1/responses/input_tokens takes."""

    input: Text | Annotated[list[InputItem], Field(fail_fast=True, max_length=MAX_ITEMS)] | None = None
    """A text, or items; may be left out after `previous_response_id`."""
    instructions: Text | None = None
    """Come first in the prompt. Those of earlier responses do not."""
    previous_response_id: Identity | None = None
    """Goes on from a response that is kept."""
    reasoning: Reasoning | None = None
    """How much the model thinks."""
    text: TextConfig | None = None
    """The form of the answer."""
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    """Functions that the model may call."""
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedTools | None = None
    """`auto` unless told otherwise."""
    parallel_tool_calls: bool | None = None
    """False: one call at most."""
    truncation: Literal["disabled"] | None = None
    """Only `disabled`: a prompt that is too long is refused."""

    def unknown(self) -> tuple[str, str, str] | None:
        """The first field that is not taken: its name, a code, and why."""
        for name, value in (self.model_extra or {}).items():
            if name in MOVED:
                return name, "unsupported_parameter", f"in the Responses API this is `{MOVED[name]}`"
            if name in NOT_OFFERED:
                if value is not None and value not in NOT_OFFERED[name]:
                    return name, "unsupported_parameter", "this server does not support it"
            else:
                shown = name if len(name) <= 64 and name.isprintable() else "?"
                return shown, "unknown_parameter", "there is no such field"
        return None


class ResponsesRequest(Conversation):
    """Names and meanings are OpenAI's; the last ones are vLLM's, under the names they have for chat completions."""

    background: bool | None = None
    """Answers at once, and works on; wants `store`."""
    include: Annotated[list[Includable], Field(fail_fast=True, max_length=16)] | None = None
    """What else the answer is to have."""
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    """Longest answer, reasoning included."""
    max_tool_calls: Annotated[int, Field(ge=1)] | None = Field(None, description="Of built-in tools: there are none.")
    metadata: Metadata | None = None
    """Kept with the response, and given back."""
    prompt_cache_key: Annotated[str, Field(max_length=1024)] | None = None
    """Given back, and without effect."""
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    """Given back, and without effect."""
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    """Given back, and without effect."""
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    """Without effect: there is one tier, `default`."""
    store: bool | None = None
    """False keeps nothing."""
    stream: bool | None = None
    """Server-sent events as the response comes."""
    stream_options: StreamOptions | None = None
    """Goes with `stream` only."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """0 takes the likeliest token always."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Of so many likeliest tokens at each place; with `include`."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the likeliest tokens that together have this probability."""
    user: Annotated[str, Field(max_length=1024)] | None = None
    """Given back, and without effect."""

    top_k: Annotated[int, Field(ge=-1, le=MAX_TOP_K)] | None = None
    """Only so many of the likeliest tokens; 0 and -1: all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only tokens at least this likely, as a share of the likeliest one's probability."""
    seed: Annotated[int, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] | None = None
    """The same request gives the same tokens."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken from the logits of tokens that the answer has already."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """The same for each time that the answer has them."""
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    """Divides the logits of tokens that prompt or answer have; above 1 they get rarer."""
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    """No end before so many tokens."""
    ignore_eos: bool | None = None
    """Never end at an end token."""
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=256)] | None = None
    """Tokens at which the answer ends."""

    @property
    def logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    @property
    def sealed(self) -> bool:
        """Whether reasoning is wanted as `encrypted_content` too."""
        return ENCRYPTED in (self.include or ())


SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "min_tokens", "ignore_eos", "stop_token_ids",
)  # fmt: skip
"""Fields that mean what they mean for chat completions."""

MOVED = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "logprobs": f"include: {LOGPROBS}",
    "functions": "tools",
    "function_call": "tool_choice",
    "verbosity": "text.verbosity",
}
"""Fields of chat completions that have another name here."""

NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": ({},),
}
"""Fields of OpenAI that would change the answer, with the values that ask for nothing."""
