"""What the arguments of calls are filled from: as the user writes it, and as it is passed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from .calendar import DAYS
from .contents import GOODS, LANDS, PEOPLE, PLACES, THINGS, letters
from .phrasing import pick
from .split import held

ROOMS = ("kitchen", "bedroom", "bathroom", "garage", "office", "hall", "garden", "living room")
LANGUAGES = (
    "French",
    "German",
    "Spanish",
    "Italian",
    "Japanese",
    "Chinese",
    "English",
    "Russian",
    "Arabic",
    "Hindi",
    "Latin",
    "Greek",
)
CURRENCIES = (
    ("dollars", "USD"), ("euros", "EUR"), ("pounds", "GBP"), ("yen", "JPY"), ("francs", "CHF"), ("rupees", "INR"),
    ("USD", "USD"), ("EUR", "EUR"), ("GBP", "GBP"), ("JPY", "JPY"), ("CHF", "CHF"), ("INR", "INR"),
)  # fmt: skip
OPERATIONS = (
    ("times", "multiply"), ("*", "multiply"), ("multiplied by", "multiply"), ("plus", "add"), ("+", "add"),
    ("minus", "subtract"), ("-", "subtract"), ("divided by", "divide"), ("/", "divide"),
)  # fmt: skip
SIGNS = {"multiply": "*", "add": "+", "subtract": "-", "divide": "/"}
MESSAGES = (
    "I am late", "hello", "see you later", "call me", "dinner is ready", "come home", "thank you", "where are you",
    "good morning", "I am on the way", "happy birthday", "the meeting is at ten", "do not wait for me", "I am home",
    "see you tomorrow",
)  # fmt: skip
CHORES = ("buy", "clean", "find", "sell", "wash", "fix", "bring", "order")
Slot = tuple[str, Any]  # as the user writes it, as it is passed


def _number(low: int, high: int) -> Callable[[random.Random, bool], Slot]:
    """A number of a range; long ranges are split between training and evaluation."""
    split = high - low >= 50

    def draw(rng: random.Random, held_out: bool) -> Slot:
        while True:
            number = low + int(rng.random() * (high - low + 1))
            if not split or held(f"number {number}", 5) == held_out:
                return str(number), number

    return draw


def _same(draw: Callable[[random.Random, bool], str]) -> Callable[[random.Random, bool], Slot]:
    """A text that is passed as it is written."""

    def slot(rng: random.Random, held_out: bool) -> Slot:
        text = draw(rng, held_out)
        return text, text

    return slot


def _of(choices: Sequence[str]) -> Callable[[random.Random, bool], Slot]:
    return _same(lambda rng, held_out: pick(rng, choices))


def _chore(rng: random.Random, held_out: bool) -> str:
    if rng.random() < 0.3:
        return f"call {PEOPLE.draw(rng, held_out)}"
    return f"{pick(rng, CHORES)} {'the ' if rng.random() < 0.3 else ''}{THINGS.draw(rng, held_out)}"


def _clock(rng: random.Random, held_out: bool) -> str:
    return f"{int(rng.random() * 24)}:{pick(rng, ('00', '15', '30', '45', '05', '10', '20', '50'))}"


def _symbol(rng: random.Random, held_out: bool) -> str:
    while held(symbol := letters(rng)[: 3 + int(rng.random() * 2)].upper(), 5) != held_out:
        pass
    return symbol


def _sum(rng: random.Random, held_out: bool) -> Slot:
    """A calculation as it is said, and as an expression."""
    (a, _), (b, _), (said, operation) = (SLOTS[name](rng, held_out) for name in ("a", "b", "operation"))
    return f"{a} {said} {b}", f"{a} {SIGNS[operation]} {b}"


SLOTS: dict[str, Callable[[random.Random, bool], Slot]] = {
    "city": _same(PLACES.draw),
    "town": _same(PLACES.draw),
    "land": _same(LANDS.draw),
    "person": _same(PEOPLE.draw),
    "thing": _same(THINGS.draw),
    "goods": _same(GOODS.draw),
    "message": _of(MESSAGES),
    "chore": _same(_chore),
    "time": _same(_clock),
    "day": _of((*DAYS, "tomorrow", "today")),
    "language": _of(LANGUAGES),
    "from": lambda rng, held_out: pick(rng, CURRENCIES),
    "to": lambda rng, held_out: pick(rng, CURRENCIES),
    "room": _of(ROOMS),
    "on": lambda rng, held_out: pick(rng, (("on", True), ("off", False))),
    "locked": lambda rng, held_out: pick(rng, (("lock", True), ("unlock", False))),
    "unit": _of(("celsius", "fahrenheit")),
    "size": _of(("small", "medium", "large")),
    "symbol": _same(_symbol),
    "operation": lambda rng, held_out: pick(rng, OPERATIONS),
    "sum": _sum,
    "a": _number(2, 999),
    "b": _number(2, 99),
    "amount": _number(1, 999),
    "number": _number(1, 9999),
    "level": _number(0, 100),
    "minutes": _number(1, 90),
    "degrees": _number(10, 30),
    "count": _number(2, 12),
}
