"""The body of /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from .fields import SamplingFields, Text, TokenIds

MAX_PROMPTS = 4096


def _form(prompt: Any) -> str:
    """Which of the four forms a prompt has. Told by its first element, so that a long list is walked but once."""
    if not isinstance(prompt, list):
        return "text"
    first = prompt[0] if prompt else ""
    return "id_lists" if isinstance(first, list) else "texts" if isinstance(first, str) else "ids"


Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS), Tag("texts")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS), Tag("id_lists")],
    Discriminator(_form),
]


class CompletionRequest(SamplingFields):
    prompt: Prompt
    echo: bool | None = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    add_special_tokens: bool | None = True

    @property
    def prompts(self) -> list[str | list[int]]:
        """As a list of prompts, all texts or all token ids."""
        alone = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if alone else self.prompt  # type: ignore[list-item, return-value]
