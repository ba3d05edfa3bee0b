"""How things are asked: many cores, each in several wordings, dressed with politeness and punctuation.

A core is a template: `{slot}` is filled in, `[a|b|]` is one of its alternatives. Its last character is its mood: `?` a
question, `.` a request that begins with its verb, `!` a statement; anything else is a fragment (`{a} + {b} =`). The
last two are left nearly as they are.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# `{}` is the core. What asks for a question mark has one.
BEFORE_REQUEST = (
    "Please {}", "Please {}", "Please {}", "Can you {}?", "Can you {}?", "Could you {}?", "Could you please {}?",
    "Can you please {}?", "Would you {}?", "Will you {}?", "I want you to {}", "I would like you to {}",
    "I need you to {}", "Now {}", "And now {}", "Now please {}", "Hey, {}", "Hi, {}", "Hello, {}", "Ok, {}", "Next, {}",
    "Then {}", "Kindly {}", "Hi! Please {}", "Hello! Could you {}?", "Try to {}", "Quickly {}",
    "For me, {}", "Hey {}", "Hi {}", "Hello {}", "Hey can you {}?", "Hi can you {}?", "Please can you {}?",
)  # fmt: skip
AFTER_REQUEST = ("{}, please", "{} please", "{} for me", "{} for me, please", "{}, thanks", "{} now", "{}, thank you")
BEFORE_QUESTION = (
    "Tell me, {}", "Tell me: {}", "Please tell me, {}", "Please tell me: {}", "Hey, {}", "Hi, {}", "Hello, {}",
    "Ok, {}", "So {}", "So, {}", "And {}", "Now, {}", "Quick question: {}", "A question: {}", "I have a question: {}",
    "I want to know: {}", "I wonder, {}", "Please, {}", "Hi! {}", "Hello! {}", "Next question: {}",
    "Can you tell me, {}", "Next: {}", "One more: {}", "Then {}", "Say, {}", "Question: {}", "Please answer: {}",
    "Help me: {}", "Hey {}", "Hi {}", "Hello {}", "Please {}",
)  # fmt: skip
AFTER_QUESTION = ("{}, please", "{} please", "{}, do you know", "{}, can you tell me")
AFTER_ALL = ("Thanks.", "Thank you.", "Thanks!", "Thank you!", "Thanks", "Please.", "Please!", "Please")

_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")
_WORD = re.compile(r"[A-Za-z]+")


def words_of(text: str) -> set[str]:
    """The words of a text in lower case, slots left out."""
    return {word.lower() for word in _WORD.findall(re.sub(r"\{\w*\}", " ", text))}


def spread(template: str) -> tuple[str, ...]:
    """Every wording of a template: the product of its alternatives, as format strings."""
    parts = _ALTERNATIVES.split(template)
    choices = [part.split("|") if at % 2 else [part] for at, part in enumerate(parts)]
    return tuple(re.sub(r"  +", " ", "".join(chosen)).strip() for chosen in itertools.product(*choices))


@dataclass(frozen=True, slots=True)
class Core:
    """One way to ask. `forms` differ in small words; `lowered` are the same with a small first letter."""

    mood: str
    forms: tuple[str, ...]
    lowered: tuple[str, ...]

    @classmethod
    def of(cls, template: str) -> Core:
        mood = template[-1] if template[-1] in "?.!" else ""
        forms = spread(template[:-1] if mood else template)
        return cls(mood, forms, tuple(_lower(form) for form in forms))


class Phrasing:
    """The ways to ask one thing. Those of training and the held-out ones are different cores."""

    def __init__(self, training: Sequence[str], held_out: Sequence[str], dressed: bool = True) -> None:
        """`dressed` false leaves the cores without politeness (a greeting has its own)."""
        self.training = tuple(Core.of(core) for core in training)
        self.held_out = tuple(Core.of(core) for core in held_out)
        self._dressed = dressed

    def draw(self, rng: random.Random, held_out: bool, **slots: object) -> str:
        """One text with `slots` filled in."""
        core = pick(rng, self.held_out if held_out else self.training)
        at = int(rng.random() * len(core.forms))
        if core.mood in ("", "!") or not self._dressed:
            form = core.lowered[at] if rng.random() < 0.35 else core.forms[at]
            return form.format(**slots) + (_end(rng, core.mood) if core.mood else "")
        asks = core.mood == "?"
        if rng.random() < 0.45:
            form, mood = core.forms[at], core.mood
            text = (_lower(form) if rng.random() < 0.35 else form).format(**slots)
        else:
            before = pick(rng, BEFORE_QUESTION if asks else BEFORE_REQUEST)
            mood = "?" if before[-1] == "?" else core.mood
            before = before.removesuffix("?")
            if rng.random() < 0.35:
                before = _lower(before)
            text = before.format(core.lowered[at].format(**slots))
        if rng.random() < 0.12:
            text = pick(rng, AFTER_QUESTION if asks else AFTER_REQUEST).format(text)
        text += _end(rng, mood)
        if rng.random() < 0.04:
            text = f"{text if text[-1] in '.?!' else text + mood} {pick(rng, AFTER_ALL)}"
        return text

    def words(self, held_out: bool = False) -> set[str]:
        """All words its texts are made of, in lower case; contents left out."""
        forms = [form for core in (self.held_out if held_out else self.training) for form in core.forms]
        if self._dressed:
            forms += [*BEFORE_REQUEST, *AFTER_REQUEST, *BEFORE_QUESTION, *AFTER_QUESTION, *AFTER_ALL]
        return words_of(" ".join(forms))


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """`rng.choice`, three times as fast."""
    return items[int(rng.random() * len(items))]


def _lower(form: str) -> str:
    """With a small first letter, except where that is a slot's or the word I."""
    if form[:1] == "{" or form[:2] in ("I ", "I'") or form == "I":
        return form
    return form[:1].lower() + form[1:]


def _end(rng: random.Random, mood: str) -> str:
    """The mark at the end: most people set it, some do not."""
    draw = rng.random()
    if mood == "?":
        return "?" if draw < 0.7 else "" if draw < 0.98 else "??"
    return "." if draw < 0.5 else "" if draw < 0.95 else "!"
