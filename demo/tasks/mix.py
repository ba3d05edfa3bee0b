"""What training draws: conversations of one kind, and of several questions that have nothing to do with one another."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from . import registry
from .base import Conversation
from .phrasing import words_of
from .registry import KINDS, SIMPLE

LONGEST = 6
INSTRUCTIONS = (
    "You are a helpful assistant.", "Be brief.", "Answer briefly.", "Be polite.", "Answer the question.", "Be helpful.",
    "Give short answers.", "You are a friendly assistant.", "Help the user.", "Answer in one sentence.",
)  # fmt: skip


class Mix:
    """What is drawn how often: by the registry's weights, but for kinds that are given another."""

    def __init__(self, weights: Mapping[str, float] = MappingProxyType({})) -> None:
        """Raises ValueError where one is of no kind or below 0, or none is left of the kinds of one question."""
        names = [kind.name for kind, _ in KINDS]
        for name, weight in weights.items():
            if name not in names:
                raise ValueError(f"{name} is unknown; known are {', '.join(names)}")
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name} must be a number from 0 on, got {weight}")
        self._all, self._simple = (_Weighted(kinds, weights) for kinds in (KINDS, SIMPLE))

    def draw(self, rng: random.Random) -> Conversation:
        """A conversation of training."""
        if rng.random() < 0.7:
            conversation = self._all.draw(rng)
        else:
            # Many answers on one prompt: each costs few tokens, and shows that the last question is what counts.
            count = 2 + int(rng.random() * (LONGEST - 1))
            turns = tuple(turn for _ in range(count) for turn in self._simple.draw(rng).turns)
            conversation = Conversation("mix", turns)
        if not conversation.instructions and rng.random() < 0.1:
            instructions = INSTRUCTIONS[int(rng.random() * len(INSTRUCTIONS))]
            return Conversation(conversation.kind, conversation.turns, conversation.tools, instructions)
        return conversation


class _Weighted:
    """Some of the kinds, each as often as its weight says."""

    def __init__(self, kinds: Iterable[registry.Weighted], weights: Mapping[str, float]) -> None:
        pairs = [(kind, weights.get(kind.name, usual)) for kind, usual in kinds]
        self._kinds = [kind for kind, _ in pairs]
        self._cumulative = list(itertools.accumulate(weight for _, weight in pairs))
        if not self._cumulative[-1] > 0:
            raise ValueError(f"of {', '.join(kind.name for kind in self._kinds)} one must have a weight above 0")

    def draw(self, rng: random.Random) -> Conversation:
        return rng.choices(self._kinds, cum_weights=self._cumulative)[0].draw(rng, False)


def vocabulary() -> set[str]:
    """The words, in lower case, that a tokenizer of these conversations should know whole."""
    return registry.vocabulary(kind for kind, _ in KINDS) | words_of(" ".join(INSTRUCTIONS))
