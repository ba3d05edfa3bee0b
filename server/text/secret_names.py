"""Which tokens of a tokenizer.json are control tokens, and their secret names in the place of the plain ones.

Control tokens are those that the file calls special, and added tokens that the chat template writes itself: DeepSeek's,
Kimi's and Qwen's files call `<think>` or `<tool_call>` not special, though they mean something only where the template
or the model has put them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

_DIGITS = 6


class SecretNames:
    """Plain text to secret name and back. Every name holds 128 random bits: no text from outside can spell one."""

    def __init__(self, texts: Iterable[str]) -> None:
        nonce = secrets.token_hex(16)
        # One length, and 'z' only at the front: no secret name can lie across two others.
        self.secret_of: Mapping[str, str] = {
            text: f"z{nonce}{place:0{_DIGITS}x}" for place, text in enumerate(dict.fromkeys(texts))
        }
        self._plain_of = {secret: text for text, secret in self.secret_of.items()}
        self._plain_pattern = any_of(self.secret_of)
        self._secret_pattern = re.compile(f"z{nonce}[0-9a-f]{{{_DIGITS}}}")

    def mark(self, text: str) -> str:
        """`text` with secret names for plain ones."""
        return self._plain_pattern.sub(lambda found: self.secret_of[found[0]], text)

    def unmark(self, text: str) -> str:
        """`text` with plain names for secret ones."""
        return self._secret_pattern.sub(lambda found: self._plain_of.get(found[0], ""), text)

    def first(self, text: str) -> str | None:
        """The first plain name in `text`."""
        found = self._plain_pattern.search(text)
        return found and found[0]

    def cut(self, text: str) -> str:
        """`text` without secret names."""
        return self._secret_pattern.sub("", text)


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of `texts`, the longest first; nothing when there is none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def special_tokens(spec: Mapping[str, Any]) -> dict[str, int]:
    """What tokenizer.json calls special: text to id. Raises TypeError, KeyError or ValueError where it is malformed."""
    return {
        str(token["content"]): int(token["id"])
        for token in spec.get("added_tokens") or []
        if token["special"] and token["content"]
    }


def template_tokens(spec: Mapping[str, Any], template: str) -> list[str]:
    """Added tokens that are not special, and that `template`, the text of a chat template, writes."""
    added = [str(token["content"]) for token in spec.get("added_tokens") or [] if not token["special"]]
    return [text for text in added if _is_marker(text) and text in template]


def _is_marker(text: str) -> bool:
    """No word, no run of spaces, no rule of dashes: those are text wherever they stand."""
    return len(set(text)) > 2 and not all(character.isalnum() or character.isspace() for character in text)


def rename(spec: dict[str, Any], secret_of: Mapping[str, str]) -> None:
    """Put secret names in the place of control tokens, in all of tokenizer.json that spells tokens."""
    for token in spec.get("added_tokens") or []:
        if token["content"] in secret_of:
            # Wherever a secret name stands it is its token: it must not depend on what is beside it.
            token |= {"content": secret_of[token["content"]], "single_word": False}
            if _prepends(spec.get("normalizer")):
                token["normalized"] = False
    model = spec.get("model")
    if not isinstance(model, dict):
        return
    if model.get("dropout"):
        model["dropout"] = None  # a training aid: the same text must give the same ids
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = secret_of.get(model["unk_token"], model["unk_token"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        renamed = {text for text in secret_of if text in vocabulary}
        model["vocab"] = {secret_of.get(text, text): token_id for text, token_id in vocabulary.items()}
        if renamed and isinstance(model.get("merges"), list):
            # A merge that makes a control token out of text must go with its name.
            model["merges"] = [pair for pair in model["merges"] if not renamed & _merge_names(pair)]
    elif isinstance(vocabulary, list):  # Unigram: [text, score] pairs
        model["vocab"] = [
            [secret_of.get(pair[0], pair[0]), *pair[1:]] if isinstance(pair, list) and pair else pair
            for pair in vocabulary
        ]


def _prepends(normalizer: Any) -> bool:
    """It puts something before each text, and so before the name of a token that is looked for in what it makes."""
    if not isinstance(normalizer, dict):
        return False
    inner = normalizer.get("normalizers")
    return normalizer.get("type") == "Prepend" or (isinstance(inner, list) and any(map(_prepends, inner)))


def _merge_names(pair: Any) -> set[str]:
    parts = pair.split(" ", 1) if isinstance(pair, str) else pair
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return set()
    return {*parts, "".join(parts)}
