"""Grammars that were asked for before, so that a schema that comes with every request is checked but once."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from .constraint import Call, Check, Constraint, ConstraintError, Speech, chat_grammar, check_here, plain_grammar

KEPT = 256
KEPT_CHARACTERS = 1 << 16  # of one; a larger one is made again


class GrammarBook:
    """Thread-safe. Both methods take milliseconds, at worst what `check` allows: call them off an event loop."""

    def __init__(self, check: Check = check_here) -> None:
        self._check = check
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self._lock = Lock()

    def plain(self, constraint: Constraint) -> str:
        """See `plain_grammar`. Raises ConstraintError."""
        return self._grammar(["plain", _form(constraint)], lambda: plain_grammar(constraint, self._check))

    def chat(
        self,
        speech: Speech,
        constraint: Constraint | None,
        calls: Sequence[Call] = (),
        *,
        must_call: bool = False,
        several: bool = True,
    ) -> str:
        """See `chat_grammar`. All speeches are one model's. Raises ConstraintError."""
        form = None if constraint is None else _form(constraint)
        asked = [(call.name, call.parameters, call.strict) for call in calls]
        return self._grammar(
            ["chat", speech.name, form, asked, must_call, several],
            lambda: chat_grammar(speech, constraint, calls, must_call=must_call, several=several, check=self._check),
        )

    def _grammar(self, question: Any, make: Callable[[], str]) -> str:
        try:
            key = hashlib.sha256(json.dumps(question).encode()).digest()
        except (RecursionError, TypeError, ValueError):
            raise ConstraintError("it is no JSON, or nested too deep") from None
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        grammar = make()
        if len(grammar) <= KEPT_CHARACTERS:
            with self._lock:
                self._kept[key] = grammar
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return grammar


def _form(constraint: Constraint) -> tuple[Any, ...]:
    return constraint.kind, constraint.value, constraint.compact
