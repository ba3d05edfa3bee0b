"""What the request bodies share: bounded field types, the sampling fields, and the refusal of what is not offered.

Strict JSON types throughout: no string passes for a number and no boolean for an integer; NaN and infinities are no
numbers. Unknown fields are ignored, as OpenAI's clients expect, except for the known ones that would change the
answer and that this server does not do: those are refused by name, never dropped in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ....engine.sampling_params import MAX_TOP_K, SEED_LIMIT
from ..config import MAX_NAME
from .structured import Choices, FormText, ResponseFormat, Schema, StructuredOutputs

MAX_TOKENS = 1 << 24
MAX_TEXT = 1 << 28  # characters; the body's limit comes first
MAX_STOP = 16
MAX_IDS = 1 << 24
MAX_BIASES = 1024
MAX_METADATA = 16  # entries, where they are kept
MAX_PRIORITY = 1 << 20  # from there on it is the server's own, for what nobody waits for


def few(most: int) -> BeforeValidator:
    """A dict's bound, held before its entries are looked at: pydantic would tell what is wrong with each of them."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise ValueError(f"must have at most {most} entries, has {len(value)}")
        return value

    return BeforeValidator(check)


TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1, max_length=MAX_IDS)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA),
    few(MAX_METADATA),
]

# Fields of OpenAI or vLLM that would change the answer, with the values that ask for nothing. None always asks for
# nothing. A body that has the field itself is not concerned: the table is about what a route does not know.
NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_decoding_backend": ("auto", "guidance"),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "suffix": ("",),
    "prompt_embeds": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "best_of": (1,),  # completions have a field of that name
    "bad_words": ([],),
    "allowed_token_ids": (),
    "truncate_prompt_tokens": (),
    "logits_processors": ([],),
    "chat_template": (),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "return_token_ids": (False,),
    "thinking_token_budget": (),
    "priority": (0,),
    "include_metrics": (False,),
    "echo": (False,),
    "add_special_tokens": (False,),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "logprob_token_ids": ([],),
    "repetition_detection": (),
    "verbosity": ("medium",),
    "moderation": (),
    "prompt_cache_options": ({},),
    "truncation_side": ("left",),
    "stream_interval": (1,),
    "watermarking": (True, False),  # there is none to be left out
    "return_token_offsets": (False,),
    "return_prompt_text": (False,),
    "routed_experts_prompt_start": (0,),
    "media_io_kwargs": ({},),
    "kv_transfer_params": (),
    "ec_transfer_params": (),
    "vllm_xargs": ({},),
}


# Fields that are taken and have no effect, with the values that ask for none: x-ignored-fields names the others.
IGNORED: dict[str, tuple[Any, ...]] = {
    "user": (),
    "safety_identifier": (),
    "metadata": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "cache_salt": (),
    "session_id": (),
}


class Body(BaseModel):
    """The common ground of all request bodies."""

    model_config = ConfigDict(
        strict=True, allow_inf_nan=False, extra="allow", protected_namespaces=(), use_attribute_docstrings=True
    )

    model: ModelName | None = Field(None, description="One of /v1/models; the served one when absent.")

    elsewhere: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Fields that only another route has, as in NOT_OFFERED."""

    def not_offered(self) -> str | None:
        """The first field that asks for something this server, or this route, does not do."""
        known = NOT_OFFERED | self.elsewhere
        for name, value in (self.model_extra or {}).items():
            if value is not None and name in known and value not in known[name]:
                return name
        return None


class ChatStreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    include_usage: bool | None = False
    """The last event before the end has `usage`, and no choices."""
    continuous_usage_stats: bool | None = False
    """Every event has `usage` so far."""
    include_obfuscation: Literal[False] | None = None
    """Events are not padded: only false."""


class SamplingFields(Body):
    """Names and meanings are OpenAI's, and vLLM's for those that OpenAI lacks. None takes the checkpoint's default."""

    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    """Longest answer, in tokens. Chat: all that fits, if left out; completions: 16."""
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    """No end before so many tokens."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """0 takes the likeliest token always. Default: the checkpoint's, else 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOP_K)] | None = None
    """Only so many of the likeliest tokens; 0 and -1: all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only tokens at least this likely, as a share of the likeliest one's probability."""
    seed: Annotated[int, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] | None = None
    """The same request gives the same tokens. Choice i takes `seed` + i."""
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True, max_length=MAX_STOP)] | None = None
    """Texts at which the answer ends; they are not part of it."""
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=256)] | None = None
    """Tokens at which the answer ends."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken from the logits of tokens that the answer has already."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """The same for each time that the answer has them."""
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    """Divides the logits of tokens that prompt or answer have; above 1 they get rarer."""
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(max_length=10)], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=MAX_BIASES),
            few(MAX_BIASES),
        ]
        | None
    ) = None
    """By token id: added to its logit."""
    ignore_eos: bool | None = False
    """Never end at an end token."""
    include_stop_str_in_output: bool | None = False
    """The stop text is part of the answer."""
    skip_special_tokens: bool | None = True
    """Control tokens leave no text."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """The k likeliest tokens at each place of the prompt; not with `stream`."""
    n: Annotated[int, Field(ge=1, le=1 << 16)] | None = 1
    """So many answers to each prompt."""
    stream: bool | None = False
    """Server-sent events as the answer comes, and `data: [DONE]`."""
    stream_options: ChatStreamOptions | None = None
    """Goes with `stream` only."""
    user: Annotated[str, Field(max_length=1024)] | None = None
    """Ignored."""
    metadata: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    """Ignored: nothing is stored."""
    store: bool | None = None
    """Ignored: nothing is stored. /v1/responses keeps what it answers."""
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    """Ignored: there is one tier, `default`."""
    safety_identifier: Annotated[str, Field(max_length=1024)] | None = None
    """Ignored."""
    prompt_cache_key: Annotated[str, Field(max_length=1024)] | None = None
    """Ignored: no prompt's cache is kept for another."""
    prompt_cache_retention: Annotated[str, Field(max_length=64)] | None = None
    """Ignored, for the same reason."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Ignored, for the same reason."""
    session_id: Annotated[str, Field(max_length=1024)] | None = None
    """Ignored."""
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None
    """Becomes part of the answer's `id`."""
    priority: Annotated[int, Field(gt=-MAX_PRIORITY, lt=MAX_PRIORITY)] | None = None
    """Lower runs first. With a keys file no better than the key's own."""
    include_metrics: bool | None = False
    """Adds `metrics`: queue time, time to first token, tokens a second. One answer only."""
    return_token_ids: bool | None = False
    """Adds `prompt_token_ids`, and `token_ids` of each choice."""
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=MAX_IDS)] | None = None
    """Only so many of the prompt's last tokens; -1: as many as leave room for the answer."""
    allowed_token_ids: Annotated[list[TokenId], Field(fail_fast=True, min_length=1, max_length=1 << 16)] | None = None
    """No other token is chosen, an end token included. Not with a form."""
    bad_words: Annotated[list[StopText], Field(fail_fast=True, max_length=256)] | None = None
    """Texts that are not spelled, neither at a word's start nor within one."""
    response_format: ResponseFormat | None = None
    """The form of the answer, as OpenAI has it."""
    structured_outputs: StructuredOutputs | None = None
    """The form of the answer, as vLLM has it."""
    guided_json: FormText | Schema | None = None
    """An older name of `structured_outputs.json`."""
    guided_regex: FormText | None = None
    """An older name of `structured_outputs.regex`."""
    guided_choice: Choices | None = None
    """An older name of `structured_outputs.choice`."""
    guided_grammar: FormText | None = None
    """An older name of `structured_outputs.grammar`."""

    @property
    def ignored(self) -> list[str]:
        """Fields that ask for something and get nothing."""
        asked = ((name, getattr(self, name), nothing) for name, nothing in IGNORED.items())
        return [name for name, value, nothing in asked if value is not None and value not in nothing]

    @property
    def stop_texts(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
