"""The bodies of /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .chat import MAX_MESSAGES, Message, TemplateFields
from .fields import MAX_IDS, Body, Text, TokenId


class TokenizeRequest(TemplateFields):
    """Either `prompt` or `messages`."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] | None = None  # type: ignore[assignment]
    """A conversation, as for chat."""
    prompt: Text | None = None
    """A text."""
    add_special_tokens: bool | None = None
    """Of a text: the tokens that the tokenizer puts around it."""
    return_token_strs: bool | None = False
    """Adds `token_strs`, how each token is spelled."""


class DetokenizeRequest(Body):
    tokens: Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_IDS)]
    """Token ids."""
