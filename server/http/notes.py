"""What a sequence says, in the order in which it says it: splitters that note each message they go through.

A chat completion has one text, one reasoning and its calls. A response and a message of Anthropic's have a part for
each thing that the model said, in its order; and a response tells preambles from the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, Protocol

from ..text.formats.base import Event as FormatEvent
from ..text.formats.registry import ChatFormat
from ..text.harmony.parser import Event, MessageStart
from ..text.tokenizer import Tokenizer
from .splitter import CallDelta, HarmonySplitter, PlainSplitter, Split, Splitter
from .text_splitter import TextSplitter

Kind = Literal["reasoning", "commentary", "final", "call"]


@dataclass(slots=True)
class Said:
    """More of message number `message`. `call`: the first delta of it that is in `text`. `tokens`: how many
    log-probabilities of the piece are this text's.
    """

    message: int
    kind: Kind
    text: str
    call: CallDelta | None = None
    tokens: int = 0


class Notes(Splitter, Protocol):
    def take(self) -> list[Said]:
        """What was said since the last time, before stop strings were looked for: more of a message is one of them."""


class _Book:
    """What has been said and not yet taken."""

    def __init__(self) -> None:
        self._said: list[Said] = []
        self._undecided = 0

    def take(self) -> list[Said]:
        told, self._said = self._said, []
        said = []
        for _, more in groupby(told, lambda each: (each.message, each.kind)):
            same = list(more)
            text, tokens = "".join(each.text for each in same), sum(each.tokens for each in same)
            said.append(Said(same[0].message, same[0].kind, text, same[0].call, tokens))
        return said

    def _count(self, token_ids: Sequence[int], split: Split, silent_ids: frozenset[int]) -> Split:
        """As Choice counts them: tokens are the content's that they or their successors turn out to be."""
        silent = token_ids[-1] in silent_ids
        if not silent:
            self._undecided += len(token_ids)
        if silent or split.owner != "undecided":
            if split.owner == "content" and self._said:
                self._said[-1].tokens += self._undecided
            self._undecided = 0
        return split


class PlainNotes(_Book, PlainSplitter):
    """All text is the one answer."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        _Book.__init__(self)
        PlainSplitter.__init__(self, tokenizer, skip_special_tokens)

    def feed(self, token_ids: Sequence[int]) -> Split:
        split = super().feed(token_ids)
        self._said.append(Said(0, "final", split.content, tokens=len(token_ids)))
        return split

    def finish(self) -> Split:
        split = super().finish()
        self._said.append(Said(0, "final", split.content))
        return split


class FormatNotes(_Book, TextSplitter):
    """See TextSplitter: what it makes of each of the parser's events, one by one: a token may end a call and begin a
    text. Such a format has no messages: one begins with each call, and where the kind changes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        format: ChatFormat,
        prompt: Sequence[int] = (),
        functions: Collection[str] = (),
        parallel_calls: bool = True,
        skip_special_tokens: bool = True,
    ) -> None:
        _Book.__init__(self)
        TextSplitter.__init__(self, tokenizer, format, prompt, functions, parallel_calls, skip_special_tokens)
        self._message = 0
        self._last: tuple[Kind, int | None] | None = None

    def feed(self, token_ids: Sequence[int]) -> Split:
        return self._count(token_ids, super().feed(token_ids), self.silent_ids)

    def _sort(self, events: Sequence[FormatEvent]) -> Split:
        whole = Split()
        for event in events:
            split = super()._sort([event])
            self._note(split)
            whole.add(split)
        return whole

    def _note(self, split: Split) -> None:
        if split.reasoning:
            self._add("reasoning", split.reasoning)
        if split.content:
            self._add("final", split.content)
        for call in split.calls:
            self._add("call", call.arguments, call)

    def _add(self, kind: Kind, text: str, call: CallDelta | None = None) -> None:
        now = kind, None if call is None else call.index
        if now != self._last:
            self._last = now
            self._message += 1
        self._said.append(Said(self._message, kind, text, call))


class HarmonyNotes(_Book, HarmonySplitter):
    """See HarmonySplitter: what it makes of each of the parser's events, one by one."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        primer: Sequence[int] = (),
        functions: Collection[str] = (),
        parallel_calls: bool = True,
        on_repair: Callable[[str], None] | None = None,
    ) -> None:
        _Book.__init__(self)
        self._message = 0
        self._preamble = False
        HarmonySplitter.__init__(self, tokenizer, primer, functions, parallel_calls, on_repair)
        self._said = []  # what the prompt holds is not said anew

    def feed(self, token_ids: Sequence[int]) -> Split:
        return self._count(token_ids, super().feed(token_ids), self.silent_ids)

    def _sort(self, events: Sequence[Event]) -> Split:
        whole = Split()
        for event in events:
            split = super()._sort([event])
            if isinstance(event, MessageStart):
                self._message += 1
                self._preamble = event.channel == "commentary"
            self._note(split)
            whole.add(split)
        return whole

    def _note(self, split: Split) -> None:
        if split.content:
            self._said.append(Said(self._message, "commentary" if self._preamble else "final", split.content))
        if split.reasoning:
            self._said.append(Said(self._message, "reasoning", split.reasoning))
        self._said += [Said(self._message, "call", call.arguments, call) for call in split.calls]
