"""Words that an answer must not hold, as the token sequences that spell them."""

from __future__ import annotations

from collections.abc import Iterable

from .tokenizer import Tokenizer


def bad_token_ids(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Each word as a text begins with it, and as it stands behind another: a space belongs to the token after it.

    As in vLLM, a model that spells a word by other tokens than the tokenizer would can still write it. `<think>` is its
    letters, and the token too where the vocabulary has one that is text to whoever reads the answer. Raises
    TokenizerError.
    """
    found: list[tuple[int, ...]] = []
    for word in map(str.lstrip, words):
        found += (tuple(tokenizer.encode(spelling)) for spelling in (word, f" {word}"))
        if word in tokenizer.template_texts:
            found.append((tokenizer.template_texts[word],))
    return tuple(dict.fromkeys(ids for ids in found if ids))
