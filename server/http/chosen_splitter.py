"""The splitter for a model's output: Harmony's for gpt-oss, else the one of the format that its checkpoint speaks."""

from __future__ import annotations

from collections.abc import Collection

from ..text.harmony.parser import primer
from .notes import FormatNotes, HarmonyNotes, Notes, PlainNotes
from .service import Service
from .splitter import HarmonySplitter, Splitter
from .text_splitter import format_splitter


def chosen_splitter(
    service: Service,
    prompt: list[int],
    functions: Collection[str],
    *,
    parallel_calls: bool = True,
    skip_special_tokens: bool = True,
) -> Splitter:
    """For one sequence that goes on from `prompt`. `functions`: names of those that the request offers."""
    tokenizer = service.tokenizer
    if service.harmony:
        return HarmonySplitter(tokenizer, primer(tokenizer, prompt), functions, parallel_calls, service.count_repair)
    return format_splitter(tokenizer, service.format, prompt, functions, parallel_calls, skip_special_tokens)


def chosen_notes(
    service: Service,
    prompt: list[int],
    functions: Collection[str],
    *,
    parallel_calls: bool = True,
    skip_special_tokens: bool = True,
) -> Notes:
    """The same, where it matters in which order things are said."""
    tokenizer = service.tokenizer
    if service.harmony:
        return HarmonyNotes(tokenizer, primer(tokenizer, prompt), functions, parallel_calls, service.count_repair)
    if service.format.plain(functions):
        return PlainNotes(tokenizer, skip_special_tokens)
    return FormatNotes(tokenizer, service.format, prompt, functions, parallel_calls, skip_special_tokens)
