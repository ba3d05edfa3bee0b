"""Fields that ask for an answer of a certain form: OpenAI's `response_format`, and vLLM's `structured_outputs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...text.constraint import MAX_CHOICES

MAX_FORM = 1 << 18  # characters of a schema, an expression or a grammar that comes as text

FormText = Annotated[str, Field(max_length=MAX_FORM)]
Choices = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(fail_fast=True, max_length=MAX_CHOICES)]
Schema = Annotated[dict[str, Any], Field(description="A JSON schema.")]


class ChatSchemaFormat(BaseModel):
    """The schema binds whatever `strict` says; without a schema any JSON object is an answer."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """Shown to gpt-oss with the schema."""
    description: FormText | None = None
    """Shown to gpt-oss with the schema."""
    schema_: Schema | None = Field(None, alias="schema")
    """A JSON schema; without it any JSON object."""
    strict: bool | None = None
    """The schema binds in any case."""


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    type: Literal["text", "json_object", "json_schema"]
    """What the answer is."""
    json_schema: ChatSchemaFormat | None = None
    """With `json_schema` only."""


class StructuredOutputs(BaseModel):
    """One of the first five; vLLM's other options are refused by name where they would change the answer."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    json_: FormText | Schema | None = Field(None, alias="json")
    """A JSON schema, or the text of one."""
    regex: FormText | None = None
    """An expression that matches the whole answer."""
    choice: Choices | None = None
    """Texts of which the answer is one."""
    grammar: FormText | None = None
    """In Lark's notation or llama.cpp's (GBNF), with a rule `start` or `root`."""
    json_object: bool | None = None
    """Any JSON object."""
    disable_any_whitespace: bool | None = False
    """JSON without spaces."""
    disable_fallback: bool | None = False
    """There is none."""
    disable_additional_properties: bool | None = False
    """Refused: say so in the schema."""
    whitespace_pattern: FormText | None = None
    """Refused."""
    structural_tag: FormText | dict[str, Any] | None = None
    """Refused."""
