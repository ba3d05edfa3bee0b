"""Pieces of the grammars that families write their calls by, in llguidance's Lark dialect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

TEXT = r"/(?s:.*)/"


class Offered(NamedTuple):
    """A function that may be called. `arguments`: the rule that its arguments follow."""

    name: str
    arguments: str


class Mark(Protocol):
    """A marker as a grammar has it."""

    def __call__(self, marker: str) -> str: ...

    def is_token(self, marker: str) -> bool:
        """The vocabulary has a token for it."""


def quoted(text: str) -> str:
    """Lark's string, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=True)


def any_of(ways: Iterable[str]) -> str:
    return f"({' | '.join(ways)})"


def json_object(call: Offered, key: str = "arguments") -> str:
    """`{"name": …, "arguments": {…}}`, spaced as templates show it to their models."""
    head = f'{{"name": {json.dumps(call.name)}, "{key}": '
    return f'{quoted(head)} {call.arguments} "}}"'


def series(one: str, several: bool, before_next: str = "") -> str:
    """`one`, and more of it where there may be several."""
    return f"{one} ({before_next} {one})*" if several else one


def json_list(calls: Sequence[Offered], several: bool) -> str:
    """What follows the bracket that opens a list of objects."""
    return f'{series(any_of(map(json_object, calls)), several, _COMMA)} "]"'


_COMMA = '"," " "?'
