"""Conversations as the tests of the tasks draw them."""

from __future__ import annotations

import random
import re

from yardmaster.demo.tasks import registry
from yardmaster.demo.tasks.base import Conversation, Turn

KINDS = {kind.name: kind for kind, _ in registry.KINDS}
EVERY = {**KINDS, registry.UNSEEN.name: registry.UNSEEN}
HELD_OUT = [False, True]


def drawn(kind: str, held_out: bool, count: int = 300) -> list[Conversation]:
    rng = random.Random(f"{kind} {held_out}")
    return [EVERY[kind].draw(rng, held_out) for _ in range(count)]


def single(kind: str, held_out: bool, count: int = 300) -> list[Turn]:
    turns = []
    for conversation in drawn(kind, held_out, count):
        assert len(conversation.turns) == 1
        assert conversation.turns[0].graded
        turns.append(conversation.turns[0])
    return turns


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def key(conversation: Conversation) -> tuple[str, ...]:
    """What of a conversation must not be shared by training and evaluation."""
    return tuple(turn.text for turn in conversation.turns if turn.graded and turn.role == "user")
