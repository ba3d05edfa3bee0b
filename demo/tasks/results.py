"""What functions return."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .contents import made_up
from .phrasing import pick
from .slots import SIGNS

SKIES = ("sunny", "cloudy", "rainy", "clear", "windy", "snowy", "foggy", "stormy")
# What results may call a field, besides its own name.
ALIASES = {
    "temperature": ("temp", "degrees"),
    "sky": ("conditions", "weather"),
    "result": ("value", "answer", "output"),
    "price": ("cost", "amount"),
    "minutes": ("duration", "time"),
    "status": ("state",),
    "population": ("people",),
}
ERRORS = ("not found", "timeout", "not allowed", "no connection", "unknown", "too many calls")


def done(rng: random.Random, passed: dict[str, Any]) -> dict[str, Any]:
    """What functions return that only do something."""
    return pick(rng, ({"status": "ok"}, {"ok": True}, {"success": True}, {"status": "done"}))


def some(**ranges: tuple) -> Callable[[random.Random, dict[str, Any]], dict[str, Any]]:
    """A result whose fields are drawn: from (low, high) if those are numbers, else one of the texts."""

    def result(rng: random.Random, passed: dict[str, Any]) -> dict[str, Any]:
        return {key: rng.randint(*of) if isinstance(of[0], int) else pick(rng, of) for key, of in ranges.items()}

    return result


def word(rng: random.Random, passed: dict[str, Any]) -> dict[str, Any]:
    """One made-up word."""
    return {"result": made_up(rng)}


def clock(rng: random.Random, passed: dict[str, Any]) -> dict[str, Any]:
    """A time of the day."""
    return {"time": f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"}


def calculated(rng: random.Random, passed: dict[str, Any]) -> dict[str, Any]:
    """What a calculator returns."""
    if "sum" in passed:
        a, sign, b = passed["sum"].split()
    else:
        a, sign, b = str(passed["a"]), SIGNS[passed["operation"]], str(passed["b"])
    x, y = int(a), int(b)
    exact = {"*": x * y, "+": x + y, "-": x - y}
    return {"result": exact[sign] if sign in exact else x // y if x % y == 0 else round(x / y, 2)}


def spelled(rng: random.Random, result: dict[str, Any]) -> dict[str, Any]:
    """The result with some fields renamed, reordered and added."""
    fields = [
        (pick(rng, ALIASES[key]) if key in ALIASES and rng.random() < 0.4 else key, value)
        for key, value in result.items()
    ]
    if rng.random() < 0.1:
        fields.append(pick(rng, (("id", rng.randint(1, 999)), ("source", "api"), ("humidity", rng.randint(10, 99)))))
    if rng.random() < 0.2:
        rng.shuffle(fields)
    return dict(fields)
