"""Bodies held against the types that OpenAI and Anthropic generate for their own Python SDKs.

The SDKs themselves build these types unchecked. Here pydantic checks them: every required field is there, every value
has exactly its type, every literal is one of those listed, and fields that the type does not have are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from .kinds import KINDS

OURS = frozenset({
    # vLLM's, on which its clients rely
    "ChatCompletion.prompt_logprobs", "ChatCompletion.prompt_token_ids", "ChatCompletion.metrics",
    "ChatCompletionMessage.reasoning", "ChatCompletionMessage.reasoning_content",
    "Choice.stop_reason", "Choice.token_ids",
    "ChatCompletionChunk.prompt_token_ids", "ChatCompletionChunk.metrics",
    "ChoiceDelta.reasoning", "ChoiceDelta.reasoning_content",
    "Completion.metrics",
    "CompletionChoice.stop_reason", "CompletionChoice.token_ids", "CompletionChoice.prompt_token_ids",
    "CompletionChoice.prompt_logprobs",
    "Model.root", "Model.parent", "Model.max_model_len",
    # Required by Open Responses
    "Response.store", "Response.presence_penalty", "Response.frequency_penalty",
    "Logprob.bytes", "LogprobTopLogprob.bytes",
    # Required by OpenAI's document
    "ResponseFunctionCallArgumentsDoneEvent.name",
    "SyncCursorPage.object", "SyncCursorPage.first_id", "SyncCursorPage.last_id",
})  # fmt: skip
"""Fields beyond the published types: all that there may be."""

UNTYPED = (
    # A text completion that goes on has no reason to end, and nothing comes before the first token of a prompt. OpenAI
    # answers null in both places, and clients look for it.
    ("completion chunk", ("choices", int, "finish_reason"), None),
    ("completion", ("choices", int, "logprobs", "token_logprobs", 0), None),
    ("completion", ("choices", int, "logprobs", "top_logprobs", int), None),
    ("completion chunk", ("choices", int, "logprobs", "token_logprobs", 0), None),
    ("completion chunk", ("choices", int, "logprobs", "top_logprobs", int), None),
    # Of an empty list. OpenAI never has one: its responses always have an input of their own.
    ("input items", ("first_id",), None),
    ("input items", ("last_id",), None),
)
"""Values that are right although the SDK's type says otherwise: of which kind, where, and which."""


class SdkJudge:
    name = "the SDKs' types"

    def faults(self, kind: str, body: Any) -> list[str]:
        """What is wrong with `body`; nothing for a kind that the SDKs do not know."""
        if KINDS[kind].sdk is None:
            return []
        try:
            known = _adapter(kind).validate_python(body, strict=True)
        except ValidationError as error:
            wrong = [each for each in error.errors() if not _expected(kind, each["loc"], each["input"])]
            return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r:.80}" for each in wrong]
        return sorted({f"{field}: no such field" for field in _beyond(known) if field not in OURS})


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[kind].sdk)


def _expected(kind: str, place: tuple[int | str, ...], value: Any) -> bool:
    return any(
        kind == of and value is right and len(place) == len(path) and all(map(_fits, place, path))
        for of, path, right in UNTYPED
    )


def _fits(step: int | str, pattern: Any) -> bool:
    return isinstance(step, int) if pattern is int else step == pattern


def _beyond(value: Any) -> Iterator[str]:
    """`Type.field` of every field anywhere in `value` that its type does not declare."""
    if isinstance(value, BaseModel):
        name = type(value).__name__.split("[")[0]
        yield from (f"{name}.{field}" for field in value.model_extra or ())
        yield from (each for field in type(value).model_fields for each in _beyond(getattr(value, field)))
    elif isinstance(value, list):
        yield from (each for item in value for each in _beyond(item))
    elif isinstance(value, dict):
        yield from (each for item in value.values() for each in _beyond(item))
