"""What may follow a prompt, as a grammar: reasoning in its markers, then an answer of some form, or a family's calls.

A marker that is a token of the vocabulary is named by its id; where it is no control token its letters mark too, since
the parser reads them as the marker. Free text never holds what calls begin with: there the call has begun.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ..tokenizer import Tokenizer
from .base import Family
from .json_calls import CALL_KEYS
from .reasoning import Begun, Think
from .rules import TEXT, Offered, any_of, quoted

_BLANK = r"/\n{0,2}/"  # behind reasoning
_BLANK_TEXT = r"\n(?s:.*)"  # which a call without a marker could not be told from in time
_BARE_CALL = rf'[ \t\r\n]*\{{[ \t\r\n]*"({"|".join(CALL_KEYS)})"(?s:.*)'


@dataclass(frozen=True, slots=True)
class Marks:
    """A family's and a model's markers in its vocabulary. See `rules.Mark`."""

    ids: dict[str, int]
    controls: Collection[str]

    @classmethod
    def of(cls, tokenizer: Tokenizer, markers: Sequence[str]) -> Marks:
        ids = {}
        for marker in markers:
            spelled = tokenizer.encode_trusted(marker)
            if len(spelled) == 1:
                ids[marker] = spelled[0]
        return cls(ids, frozenset(marker for marker in markers if marker in tokenizer.special_texts))

    def __call__(self, marker: str) -> str:
        if marker not in self.ids:
            return quoted(marker)
        token = f"<[{self.ids[marker]}]>"
        return token if marker in self.controls else f"({token} | {quoted(marker)})"

    def is_token(self, marker: str) -> bool:
        return marker in self.ids

    def lettered(self, marker: str) -> bool:
        """Its letters mark too."""
        return marker not in self.controls


@dataclass(slots=True)
class FormatSpeech:
    """A `Speech` (constraint.py) of a model that does not speak Harmony, behind one prompt.

    `begun`: what that prompt has of the reasoning.
    """

    family: Family | None
    think: Think | None
    marks: Marks
    begun: Begun
    _rules: list[str] = field(default_factory=list, init=False)

    @property
    def name(self) -> str:
        """Of this speech among all of one model."""
        return f"format {self.begun}"

    def grammar(self, answer: str | None, calls: Sequence[Offered], must_call: bool, several: bool) -> str:
        """See `Speech`. Text before calls is free where the answer is; there is none before a forced one."""
        family = self.family
        after = {} if family is None or not calls else family.grammar(calls, self.marks, several)
        self._rules = []
        free = answer is None and not must_call
        bare = family.bare if family is not None and family.bare in after else None
        never = [] if bare is None else [_BARE_CALL, _BLANK_TEXT]
        ways = [] if must_call else ["text" if answer is None else answer]
        if free:
            self._terminal("text", TEXT, never)
        for place, (opener, rest) in enumerate(after.items()):
            self._rules.append(f"calls{place}: {rest}")
            before = (
                "" if opener == bare else self._until(f"lead{place}", opener, never) if free else self.marks(opener)
            )
            ways.append(f"{before} calls{place}")
        begins = [marker for marker in after if marker != bare and self.marks.lettered(marker)]
        head = self._reasoning([f"(?s:.*){_escaped(marker)}(?s:.*)" for marker in begins])
        return "\n".join([f"start: {head} {any_of(ways)}", *self._rules])

    def _reasoning(self, never: Sequence[str]) -> str:
        """Before all else. `never`: what would begin a call within a thought."""
        think = self.think
        if think is None or self.begun == "ended":
            return ""
        thought = self._until("thought", think.close, never)
        if self.begun == "open":
            return f"{self.marks(think.open)}? {thought} {_BLANK}"
        return f"({self.marks(think.open)} {thought} {_BLANK})?"

    def _until(self, name: str, marker: str, never: Sequence[str]) -> str:
        """Text up to the first `marker`, and that. The text matches none of the expressions `never`."""
        ways = []
        if marker in self.marks.ids:
            ways.append(f"{self._terminal(name, TEXT, never)} <[{self.marks.ids[marker]}]>")
        if self.marks.lettered(marker):
            ways.append(self._terminal(f"{name}_end", f"/(?s:.*){_escaped(marker)}/", never, "[lazy]"))
        return any_of(ways)

    def _terminal(self, name: str, expression: str, never: Sequence[str], how: str = "") -> str:
        """The name of a rule for text that matches `expression` and none of `never`."""
        self._rules.append(f"{name}{how}: {name.upper()}")
        self._rules.append(f"{name.upper()}: {' & '.join([expression, *(f'~/{each}/' for each in never)])}")
        return name


def _escaped(text: str) -> str:
    """As a regular expression between Lark's slashes."""
    return re.escape(text).replace("/", r"\/")
