"""The tables of `known_elsewhere` as hidden flags of a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, make_dataclass
from typing import Annotated

import typer

from .known_elsewhere import SWITCHES, VALUES, Fact, without_known_elsewhere


def _switch(name: str, fact: Fact) -> object:
    flag = name.replace("_", "-")
    names = [f"--{flag}/--no-{flag}", *([fact.short] if fact.short else [])]
    return Annotated[bool | None, typer.Option(*names, hidden=True)]


def _value(name: str, fact: Fact) -> object:
    names = [f"--{name.replace('_', '-')}", *([fact.short] if fact.short else [])]
    return Annotated[str | None, typer.Option(*names, hidden=True)]


_Made = make_dataclass(
    "_Made",
    [
        *((name, _switch(name, fact), None) for name, fact in SWITCHES.items()),
        *((name, _value(name, fact), None) for name, fact in VALUES.items()),
    ],
    frozen=True,
    kw_only=True,
)


class ElsewhereFlags(_Made):  # type: ignore[misc, valid-type]
    """For a command's signature, by way of `expand`."""

    def settle(self, tell: Callable[[str], None]) -> None:
        """As `without_known_elsewhere`."""
        without_known_elsewhere(asdict(self), tell)
