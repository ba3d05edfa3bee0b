"""What training draws: conversations of one kind, and of several questions that have nothing to do with one another."""

from __future__ import annotations

import itertools
import random

from . import registry
from .base import Conversation
from .phrasing import words_of
from .registry import KINDS, SIMPLE

LONGEST = 6
INSTRUCTIONS = (
    "You are a helpful assistant.", "Be brief.", "Answer briefly.", "Be polite.", "Answer the question.", "Be helpful.",
    "Give short answers.", "You are a friendly assistant.", "Help the user.", "Answer in one sentence.",
)  # fmt: skip


def draw(rng: random.Random) -> Conversation:
    """A conversation of training."""
    if rng.random() < 0.7:
        conversation = _one(rng, _ALL)
    else:
        # Many answers on one prompt: each costs few tokens, and shows that the last question is the one that counts.
        count = 2 + int(rng.random() * (LONGEST - 1))
        turns = tuple(turn for _ in range(count) for turn in _one(rng, _SIMPLE).turns)
        conversation = Conversation("mix", turns)
    if not conversation.instructions and rng.random() < 0.1:
        instructions = INSTRUCTIONS[int(rng.random() * len(INSTRUCTIONS))]
        return Conversation(conversation.kind, conversation.turns, conversation.tools, instructions)
    return conversation


def vocabulary() -> set[str]:
    """The words, in lower case, that a tokenizer of these conversations should know whole."""
    return registry.vocabulary(kind for kind, _ in KINDS) | words_of(" ".join(INSTRUCTIONS))


_ALL = ([kind for kind, _ in KINDS], list(itertools.accumulate(weight for _, weight in KINDS)))
_SIMPLE = ([kind for kind, _ in SIMPLE], list(itertools.accumulate(weight for _, weight in SIMPLE)))


def _one(rng: random.Random, of: tuple[list, list[float]]) -> Conversation:
    kinds, cumulative = of
    return rng.choices(kinds, cum_weights=cumulative)[0].draw(rng, False)
