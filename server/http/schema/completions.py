"""The body of /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

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
    """A text, several, a list of token ids, or several of those."""
    echo: bool | None = False
    """The answer begins with the prompt."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Of so many likeliest tokens at each place."""
    best_of: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    """Only the same as `n`."""
    add_special_tokens: bool | None = True
    """The tokens that the tokenizer puts around a text, such as a beginning."""

    elsewhere: ClassVar[dict[str, tuple[Any, ...]]] = {
        "messages": (),
        "max_completion_tokens": (),
        "top_logprobs": (0,),
        "reasoning_effort": (),
        "include_reasoning": (True,),
        "parallel_tool_calls": (True,),
        "add_generation_prompt": (),
        "continue_final_message": (False,),
        "chat_template_kwargs": ({},),
    }

    @property
    def prompts(self) -> list[str | list[int]]:
        """As a list of prompts, all texts or all token ids."""
        alone = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if alone else self.prompt  # type: ignore[list-item, return-value]
