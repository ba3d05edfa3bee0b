"""Questions of one front end to all others, in the hub: each goes to every one, and one answer comes back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

import msgspec

from .desk import Desk
from .messages import NotHere, Part, Relay, Stop


@dataclass(slots=True, eq=False)
class _Talk:
    asker: Desk
    number: int  # as the asker has it
    waiting: set[Desk] = field(default_factory=set)  # who have not said yet whether they have it
    holder: Desk | None = None


class Exchange:
    """One event loop's alone."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._talks: dict[int, _Talk] = {}

    def ask(self, asker: Desk, message: Relay, others: Iterable[Desk]) -> None:
        talk = _Talk(asker, message.number, set(others))
        number = next(self._numbers)
        self._talks[number] = talk
        for desk in talk.waiting:
            desk.wire.send(msgspec.structs.replace(message, number=number))
        self._end_where_nobody_has_it(number, talk)

    def say(self, desk: Desk, message: Part | NotHere) -> None:
        talk = self._talks.get(message.number)
        if talk is None or (desk is not talk.holder and desk not in talk.waiting):
            return
        talk.waiting.discard(desk)
        if isinstance(message, Part):
            talk.holder = desk
            talk.asker.wire.send(msgspec.structs.replace(message, number=talk.number))
            if message.last:
                del self._talks[message.number]
        else:
            self._end_where_nobody_has_it(message.number, talk)

    def stop(self, asker: Desk, number: int) -> None:
        for mine, talk in list(self._talks.items()):
            if talk.asker is asker and talk.number == number:
                self._stop(mine, talk)

    def bury(self, desk: Desk) -> None:
        """A front end has gone: what it asked, and what it was to answer."""
        for number, talk in list(self._talks.items()):
            if talk.asker is desk:
                self._stop(number, talk)
            elif talk.holder is desk:
                talk.asker.wire.send(Part(number=talk.number, last=True))
                del self._talks[number]
            elif desk in talk.waiting:
                self.say(desk, NotHere(number))

    def _stop(self, number: int, talk: _Talk) -> None:
        del self._talks[number]
        for desk in (talk.holder, *talk.waiting):
            if desk is not None:
                desk.wire.send(Stop(number))

    def _end_where_nobody_has_it(self, number: int, talk: _Talk) -> None:
        if talk.holder is None and not talk.waiting:
            talk.asker.wire.send(NotHere(talk.number))
            del self._talks[number]
