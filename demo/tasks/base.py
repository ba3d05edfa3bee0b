"""What the demo model is taught: conversations drawn at random, each with the right answer to every turn.

A `Kind` is one sort of question. It draws from phrasings and contents of two disjoint sets: those of training, and
held-out ones that only the evaluation sees. Pure Python: text, no tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

EFFORTS = ("low", "medium", "high")
SO = ". So "  # between a working and its result


@dataclass(frozen=True, slots=True)
class Call:
    """A function call that the model is to make."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model is to say: thoughts, then a text or calls (one a reply, as gpt-oss makes them).

    `thoughts` by reasoning effort; an effort that is missing goes straight to the answer. `low` never thinks. What a
    model this small cannot do in its head is said `aloud` then: the answer holds the working of medium effort.
    """

    text: str = ""
    thoughts: Mapping[str, str] = field(default_factory=dict)
    call: Call | None = None
    aloud: bool = False

    def said(self, effort: str) -> str:
        """The text at an effort."""
        return f"{self.thoughts['medium']}{SO}{self.text}" if self.aloud and effort == "low" else self.text

    def result(self, said: str) -> str:
        """What a text gives as its result, behind the working if it is said aloud."""
        return said.rpartition(SO)[2] if self.aloud else said


@dataclass(frozen=True, slots=True)
class Turn:
    """What comes in, from the user or as the result of the call before, and what is to be said to it.

    `graded` is false for turns that only lead up to the one that counts.
    """

    text: str
    reply: Reply
    role: str = "user"  # or "tool"
    graded: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """`tools` in OpenAI's form, `instructions` the developer's own words."""

    kind: str
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    instructions: str = ""


class Kind(Protocol):
    """One sort of question. `name` is what tables and pictures call it."""

    name: str

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        """A fresh conversation; the same state of `rng` gives the same one."""

    def right(self, turn: Turn, said: str) -> bool:
        """Whether `said`, the final text, answers a graded turn that wants a text. Calls are compared by the caller."""
