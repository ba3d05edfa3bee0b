"""All kinds, how often training draws each, and the words that they are asked and answered in."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase
from typing import Protocol

from . import arithmetic, beyond, calendar, identity, memory, sorting, tools, words
from .base import Kind
from .contents import Words
from .phrasing import Phrasing, words_of

Weighted = tuple["Worded", float]


class Worded(Kind, Protocol):
    """A kind that tells its words: those of its phrasings, and in `says` those of what else it is told and answers."""

    @property
    def phrasings(self) -> tuple[Phrasing, ...]: ...

    @property
    def says(self) -> tuple[str, ...]: ...


def vocabulary(kinds: Iterable[Worded], held_out: bool = False) -> set[str]:
    """The words, in lower case, that conversations of these kinds are written in, contents left out.

    Among them every letter, since words are spelled out with spaces between theirs.
    """
    found = set(ascii_lowercase)
    for kind in kinds:
        found.update(words_of(" ".join(kind.says)), *(phrasing.words(held_out) for phrasing in kind.phrasings))
    return found


def _simple(contents: Words, cannot: beyond.Beyond) -> tuple[Weighted, ...]:
    """The kinds of one question and one answer, weighted by what there is to learn."""
    reverse, upper, spell = words.kinds(contents)
    return (
        (arithmetic.Sums(), 6.0),
        (arithmetic.Differences(), 7.0),
        (reverse, 6.0),
        (upper, 2.0),
        (spell, 3.0),
        (sorting.Sorting(contents), 8.0),
        (calendar.Calendar(), 4.0),
        (identity.identity(), 1.0),
        (identity.greeting(), 1.0),
        (cannot, 2.5),
    )


def _common() -> set[str]:
    """The words of all kinds, which are among the contents of some: their own contents do not matter here."""
    simple = [kind for kind, _ in _simple(Words(("none",)), beyond.Beyond())]
    return vocabulary((*simple, memory.Memory(()), tools.Tools(())))


_CONTENTS = Words(_common())
_BESIDE_TOOLS = _simple(_CONTENTS, beyond.Beyond(with_tools=True))
SIMPLE = _simple(_CONTENTS, beyond.Beyond())
KINDS: tuple[Weighted, ...] = (*SIMPLE, (memory.Memory(SIMPLE), 2.5), (tools.Tools(_BESIDE_TOOLS), 6.0))
# Never drawn in training: how well the model follows names that it has not seen.
UNSEEN: Worded = tools.Tools(_BESIDE_TOOLS, unseen=True)
