"""The body of /v1/chat/completions, and the messages that /tokenize takes too."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...text.offered_tools import FUNCTION_NAME
from .fields import MAX_TOKENS, Body, Name, SamplingFields, Text
from .structured import ResponseFormat

MAX_MESSAGES = 4096
MAX_TOOLS = 128


class Part(BaseModel):
    """A piece of a message. Only text is understood; what else there is gets refused by its `type`."""

    model_config = ConfigDict(strict=True, extra="allow", use_attribute_docstrings=True)

    type: Annotated[str, Field(max_length=64)]
    """`text`; others are refused by name."""
    text: Text | None = None
    """The text."""


class FunctionCall(BaseModel):
    """What the model called: a name that it made up may be shown to it again."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^\S{1,256}$")]
    """The function."""
    arguments: Annotated[str, Field(max_length=1 << 20)] = "{}"
    """What it was called with: JSON, as the model wrote it."""


class ToolCall(BaseModel):
    """A call in an earlier turn: it is shown to the model again."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    id: Name | None = None
    """To which a tool's message refers by `tool_call_id`."""
    type: Literal["function"] = "function"
    function: FunctionCall
    """What was called."""


class Function(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=FUNCTION_NAME)]
    """Letters, digits, `_`, `.` and `-`."""
    description: Text | None = None
    """What it does: the model reads this."""
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema; left out by a function without any.")
    strict: bool | None = None
    """Holds the arguments to the schema, whatever the model would write."""


class Tool(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    type: Literal["function"]
    function: Function
    """What may be called."""


class NamedFunction(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    name: Name
    """One of the tools."""


class NamedChoice(BaseModel):
    """The one function that must be called."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    type: Literal["function"]
    function: NamedFunction
    """Which one."""


class AllowedFunctions(BaseModel):
    """`required`: one of them must be called."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    mode: Literal["auto", "required"]
    """Whether one of them must be called."""
    tools: Annotated[list[NamedChoice], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]
    """Which of the request's tools."""


class AllowedChoice(BaseModel):
    """Only some of the tools are shown and may be called, this time."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions
    """Which tools, and whether one must be called."""


class Message(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks."""
    content: Text | Annotated[list[Part], Field(fail_fast=True, max_length=4096)] | None = None
    """A text, or parts of text."""
    name: Name | None = None
    """Who it is, where several speak in one role."""
    reasoning_content: Text | None = None
    """What the assistant thought; the same as `reasoning`."""
    reasoning: Text | None = None
    """What the assistant thought, as an answer has it."""
    refusal: Text | None = None
    """Shown to the model as what the assistant said, where there is no content."""
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=128)] | None = None
    """What the assistant called."""
    tool_call_id: Name | None = None
    """Of a tool's message: the call that it answers."""
    function_call: None = None  # deprecated by OpenAI, and refused
    """Refused; `tool_calls` took its place."""
    audio: None = None
    """Refused."""


class TemplateFields(Body):
    """What decides how messages become a prompt."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    """The conversation."""
    add_generation_prompt: bool | None = True
    """False: the prompt ends with the last message, and no answer is begun."""
    continue_final_message: bool | None = False
    """The answer goes on where the last message ends; with `add_generation_prompt` false."""
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=32)] | None = None
    """Variables of the template, such as `enable_thinking`."""
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    """How much the model thinks: gpt-oss, and templates that look at it."""
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    """Functions that the model may call."""
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None = None
    """`auto` unless told otherwise; one function is called once, `required` is one call or several."""
    response_format: ResponseFormat | None = None
    """The form of the answer, as OpenAI has it."""


class ChatRequest(SamplingFields, TemplateFields):
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    """Rules over `max_tokens`."""
    logprobs: bool | None = False
    """Log-probabilities of the content's tokens."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Of so many likeliest tokens at each place; with `logprobs`."""
    include_reasoning: bool | None = True
    """False leaves `reasoning` out of the answer."""
    parallel_tool_calls: bool | None = None
    """False: one call at most."""

    elsewhere: ClassVar[dict[str, tuple[Any, ...]]] = {"prompt": ()}
