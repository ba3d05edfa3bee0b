"""Token ids to what an answer is made of: content, reasoning, and calls of tools. Pure: no HTTP and no waiting."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..text.detokenizer import Detokenizer
from ..text.harmony.messages import FUNCTIONS
from ..text.harmony.parser import REPAIRS, Event, HarmonyParser, MessageEnd, MessageStart, TextDelta
from ..text.tokenizer import Tokenizer

Owner = Literal["content", "reasoning", "call", "nobody", "undecided"]

ALL_REPAIRS = (
    *REPAIRS,
    "function_name",  # a name that only nearly is one of the request's functions
    "unknown_function",  # a call of what the request does not offer; reasoning where it offers nothing
    "empty_arguments",  # a call without arguments gets {}
)
"""What `on_repair` may be told."""


@dataclass(frozen=True, slots=True)
class CallDelta:
    """New of one call. `id` and `name` come with the first delta of each, and once."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class Split:
    """What tokens said, and whose they were: undecided, while what they said is not yet certain."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    owner: Owner = "undecided"

    def add(self, later: Split) -> None:
        self.content += later.content
        self.reasoning += later.reasoning
        self.calls += later.calls
        self.owner = self.owner if later.owner == "undecided" else later.owner


class Splitter(Protocol):
    silent_ids: frozenset[int]
    """Tokens that have a meaning but no text: one that ends the sequence is to be fed too."""
    done: bool
    """What the request allows has been said: the sequence is to end here."""

    def feed(self, token_ids: Sequence[int]) -> Split: ...

    def finish(self) -> Split: ...


class PlainSplitter:
    """All text is content."""

    silent_ids: frozenset[int] = frozenset()
    done = False

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens)

    def feed(self, token_ids: Sequence[int]) -> Split:
        return Split(self._detokenizer.feed(token_ids), owner="content")

    def finish(self) -> Split:
        return Split(self._detokenizer.finish(), owner="content")


class HarmonySplitter:
    """Final, and commentary addressed to nobody, are content. A message to a function is its call. All else that the
    model says, to itself or to others, is reasoning. Feed single tokens.

    `primer`: tokens of the prompt that already stand in the message to be continued, after `<|start|>assistant`.
    `functions`: names of those that the request offers. `parallel_calls` False: the sequence is `done` after one call.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        primer: Sequence[int] = (),
        functions: Collection[str] = (),
        parallel_calls: bool = True,
        on_repair: Callable[[str], None] | None = None,
    ) -> None:
        self.silent_ids = tokenizer.special_ids
        self.done = False
        self._repaired: Callable[[str], None] = on_repair or (lambda repair: None)
        self._parser = HarmonyParser(tokenizer, self._repaired)
        self._functions = functions
        self._parallel = parallel_calls
        self._owner: Owner = "content"  # of the current message
        self._calls = 0
        self._has_arguments = False
        self._sort(self._parser.feed(primer))

    def feed(self, token_ids: Sequence[int]) -> Split:
        return self._sort(self._parser.feed(token_ids))

    def finish(self) -> Split:
        return self._sort(self._parser.finish())

    def _sort(self, events: Sequence[Event]) -> Split:
        split = Split()
        for event in events:
            if self.done:
                break
            match event:
                case MessageStart():
                    name = self._function(event)
                    self._owner = "call" if name is not None else _owner(event)
                    if name is not None:
                        split.calls += (CallDelta(self._calls, "", f"call_{uuid.uuid4().hex[:24]}", name),)
                        self._calls += 1
                        self._has_arguments = False
                case TextDelta(text):
                    self._add(text, split)
                case MessageEnd() if self._owner == "call":
                    if not self._has_arguments:
                        self._repaired("empty_arguments")
                        self._add("{}", split)
                    self.done = not self._parallel
        return split

    def _add(self, text: str, split: Split) -> None:
        split.owner = self._owner
        if self._owner == "content":
            split.content += text
        elif self._owner == "reasoning":
            split.reasoning += text
        else:
            self._has_arguments = self._has_arguments or bool(text.strip())
            split.calls += (CallDelta(self._calls - 1, text),)

    def _function(self, start: MessageStart) -> str | None:
        """The name of the function that the message calls, None when it calls none."""
        recipient = start.recipient or ""
        if start.role != "assistant" or not (recipient.startswith(FUNCTIONS) or recipient in self._functions):
            return None
        name = recipient.removeprefix(FUNCTIONS)
        if name in self._functions:
            if name == recipient:
                self._repaired("function_name")
            return name
        for kind in ("json", "code"):  # "to=functions.get_weatherjson"
            if name.removesuffix(kind) in self._functions:
                self._repaired("function_name")
                return name.removesuffix(kind)
        self._repaired("unknown_function")
        return name or None if self._functions else None


def _owner(start: MessageStart) -> Owner:
    to_user = start.recipient in (None, "all", "user")
    return "content" if to_user and start.role == "assistant" and start.channel != "analysis" else "reasoning"
