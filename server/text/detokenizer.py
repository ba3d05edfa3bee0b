"""Token ids to text, as they come: each increment is certain, no increment costs more than its own tokens."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from .tokenizer import REPLACEMENT, Tokenizer

WINDOW = 8  # tokens of context for decoders whose tokens change with their neighbours


class Detokenizer:
    """Of one sequence. With `at_start`, the joined results of `feed` and `finish` equal `Tokenizer.decode` of all ids.

    Without it (a generation, which goes on where a prompt stopped) a leading space is text and stays. Never raises:
    bytes that are no UTF-8, and ids outside the vocabulary, give U+FFFD. For decoders that do not work on bytes
    (`Tokenizer.decodes_bytes`) a window of the last tokens is decoded again, and the difference is the increment.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True, at_start: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._spaces_to_drop = tokenizer.start_spaces if at_start else 0
        self._window: list[int] = []
        self._emitted = 0  # tokens of the window whose text is out

    def feed(self, token_ids: Sequence[int]) -> str:
        """Text that is now certain; an unfinished character is held back."""
        ids = [token_id for token_id in token_ids if token_id not in self._skipped]
        if not self._tokenizer.decodes_bytes:
            return "".join(self._feed_window(token_id) for token_id in ids)
        data = b"".join(map(self._tokenizer.token_bytes, ids))
        return self._drop_spaces(self._utf8.decode(data))

    def finish(self) -> str:
        """What was held back: an unfinished character becomes U+FFFD. More may be fed afterwards."""
        if self._tokenizer.decodes_bytes:
            text = self._drop_spaces(self._utf8.decode(b"", final=True))
            self._utf8.reset()
            return text
        text = self._increment()
        self._window, self._emitted = [], 0
        return text

    def _drop_spaces(self, text: str) -> str:
        if self._spaces_to_drop and text:
            kept = text.lstrip(" ")
            dropped = min(len(text) - len(kept), self._spaces_to_drop)
            # The first character that is no space ends the start of the text.
            self._spaces_to_drop = 0 if kept else self._spaces_to_drop - dropped
            return text[dropped:]
        return text

    def _feed_window(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._increment()
        if text.endswith(REPLACEMENT) and len(self._window) - self._emitted < WINDOW:
            return ""  # perhaps the first part of a character
        surplus = max(0, self._emitted - WINDOW)
        self._window = self._window[surplus:]
        self._emitted = len(self._window)
        return text

    def _increment(self) -> str:
        before = self._tokenizer.decode(self._window[: self._emitted], skip_special_tokens=False)
        return self._tokenizer.decode(self._window, skip_special_tokens=False)[len(before) :]
