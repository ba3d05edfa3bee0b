"""What a model says in a format of its own: words shared by the families' parsers.

A family writes its calls between markers, such as `<tool_call>` or `[TOOL_CALLS]`. In some vocabularies a marker is a
control token: then only that token marks, and the same letters in a text are letters. In others it is text.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from .rules import Mark, Offered
    from .stream import Stream

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Reads a text that is still coming: it yields to wait for more, and returns what it has found."""

SPACE = " \t\r\n"


class Content(msgspec.Struct, frozen=True, gc=False):
    """New text of the answer. Never empty, like the other texts."""

    text: str


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    text: str


class CallStart(msgspec.Struct, frozen=True, gc=False):
    """A call begins. `identity`: the model's own name for it, in formats that have one."""

    name: str
    identity: str | None = None


class Arguments(msgspec.Struct, frozen=True, gc=False):
    """More of the call's arguments: the model's own text, which is JSON where the model wrote JSON."""

    text: str


class CallEnd(msgspec.Struct, frozen=True, gc=False):
    pass


Event = Content | Reasoning | CallStart | Arguments | CallEnd


class Malformed(Exception):
    """What was read is no call, or the text ends here. It never leaves a parser."""


class Parser(Protocol):
    """Of one sequence. Never raises, and but for where texts are cut into events, these do not depend on the chunks.

    Calls are (CallStart, Arguments+, CallEnd). What is no call and no reasoning is content, however odd it is.
    """

    @property
    def holds(self) -> bool:
        """Something has been read whose meaning is not certain yet."""

    def feed(self, text: str) -> list[Event]: ...

    def control(self, marker: str) -> list[Event]:
        """A control token came, one of the family's markers."""

    def finish(self) -> list[Event]:
        """The sequence has ended; what was held back."""


class Family(Protocol):
    """How one family writes calls."""

    @property
    def markers(self) -> tuple[str, ...]:
        """All of them. None is the beginning of another."""

    @property
    def openers(self) -> tuple[str, ...]:
        """Those that calls may begin with."""

    @property
    def bare(self) -> str:
        """What an answer of nothing but calls begins with, without a marker; empty where there is no such form."""

    def calls(self, stream: Stream, opener: str) -> Steps[None]:
        """Reads calls behind `opener`. Raises Malformed; what was read since the last call is then text."""

    def grammar(self, calls: Sequence[Offered], mark: Mark, several: bool) -> Mapping[str, str]:
        """How calls are written: what follows each of the openers, in the model's own spacing.

        Behind `bare` stands the whole object, its bracket included. `several`: one call, or more than one.
        """

    def identity(self, name: str, place: int) -> str:
        """For a call that the model did not name: the `place`th of the answer."""
