"""Functions that a conversation can offer: names and parameters in several spellings, requests and results."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .base import Call
from .contents import made_up
from .phrasing import Phrasing, pick
from .slots import SLOTS
from .split import held


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument. `names` are its spellings, `slot` what it is filled from."""

    names: tuple[str, ...]
    slot: str
    about: str
    type: str = "string"
    choices: tuple[str, ...] = ()
    required: bool = True


CITY = Parameter(("city", "location", "place"), "city", "Name of the city")
NAME = Parameter(("name", "person", "who"), "person", "Name of the person")
TIME = Parameter(("time", "at", "when"), "time", "Time of the day")
DAY = Parameter(("day", "date"), "day", "Day of the week")


@dataclass(frozen=True, slots=True)
class Function:
    """Something that can be called.

    `words` are the verbs and nouns that its names are made of; functions of one `topic` are never offered together.
    `result` makes what it returns from the slots' values, `reply` says it with the slots and the results; `more` is a
    wish that a request may end in.
    """

    topic: str
    words: tuple[tuple[str, ...], tuple[str, ...]]
    about: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    phrasing: Phrasing
    wants: str
    result: Callable[[random.Random, dict[str, Any]], dict[str, Any]]
    reply: str
    more: str = ""

    def text(self) -> str:
        """All that a conversation may say of it, contents and requests left out."""
        parameters = [text for parameter in self.parameters for text in (*parameter.names, parameter.about)]
        own = (*self.words[0], *self.words[1], *self.about, self.wants, self.reply, self.more)
        return " ".join((*own, *parameters)).replace("_", " ")

    def name(self, rng: random.Random, unseen: bool, invented: float = 0.0) -> str:
        """A name for it. `unseen` ones are never drawn in training; `invented` is the share of made-up ones more."""
        while True:
            verb, noun = pick(rng, self.words[0]), pick(rng, self.words[1])
            style = rng.random()
            if style < max(0.06, invented) or (unseen and style < 0.3):
                name = made_up(rng) if rng.random() < 0.6 else f"{made_up(rng, 2)}_{made_up(rng, 2)}"
            elif style < 0.65:
                name = f"{verb}_{noun}"
            elif style < 0.8:
                name = noun
            elif style < 0.92:
                name = verb + noun.replace("_", " ").title().replace(" ", "")
            else:
                name = f"{noun}_{pick(rng, ('tool', 'api', 'function', 'service'))}"
            if held(name, 6) == unseen:
                return name


@dataclass(frozen=True, slots=True)
class Offer:
    """A function as one conversation spells it: what goes into `tools`."""

    function: Function
    name: str
    keys: tuple[tuple[str, Parameter], ...]  # (spelling, parameter), in the schema's order
    schema: dict[str, Any]

    @classmethod
    def draw(cls, rng: random.Random, function: Function, unseen: bool, invented: float = 0.0) -> Offer:
        """`invented`: the share of parameters with made-up names, which are described then."""
        name = function.name(rng, unseen, invented)
        keys = [(pick(rng, parameter.names), parameter) for parameter in function.parameters]
        if rng.random() < 0.15:
            rng.shuffle(keys)
        described = rng.random() < 0.4
        if rng.random() < invented:
            described = True
            names: set[str] = set()
            while len(names) < len(keys):
                names.add(made_up(rng, 2))
            keys = [(name, parameter) for name, (_, parameter) in zip(sorted(names), keys, strict=True)]
        parameters: dict[str, Any] = {
            "type": "object",
            "properties": {key: _schema(rng, parameter, described) for key, parameter in keys},
        }
        if required := [key for key, parameter in keys if parameter.required]:
            parameters["required"] = required
        schema = {"name": name, "description": pick(rng, function.about), "parameters": parameters}
        return cls(function, name, tuple(keys), {"type": "function", "function": schema})

    def ask(self, rng: random.Random, held_out: bool) -> tuple[str, Call, dict[str, str], dict[str, Any]]:
        """(request, the call it wants, slots as written, the call's result)."""
        shown: dict[str, str] = {}
        passed: dict[str, Any] = {}
        for parameter in self.function.parameters:
            written, value = SLOTS[parameter.slot](rng, held_out)
            while value in passed.values():  # no way leads from a city to itself
                written, value = SLOTS[parameter.slot](rng, held_out)
            shown[parameter.slot], passed[parameter.slot] = written, value
        with_more = bool(self.function.more) and rng.random() < 0.4
        request = self.function.phrasing.draw(
            rng, held_out, **shown, more=self.function.more.format(**shown) if with_more else ""
        )
        arguments = {key: passed[parameter.slot] for key, parameter in self.keys if parameter.required or with_more}
        return request, Call(self.name, arguments), shown, self.function.result(rng, passed)


def _schema(rng: random.Random, parameter: Parameter, described: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.type}
    if parameter.type == "integer" and rng.random() < 0.3:
        schema["type"] = "number"
    if described:
        schema["description"] = parameter.about
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    return schema
