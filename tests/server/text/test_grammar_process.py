"""Grammars that would hang or crash a server are refused, in bounded time, and disturb nobody."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from yardmaster.server.text.constraint import Constraint, ConstraintError, check_here, plain_grammar
from yardmaster.server.text.grammar_book import GrammarBook
from yardmaster.server.text.grammar_process import GrammarChecks

ENDLESS = {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}$"} for i in range(1, 40)]}
DEEP = "start: r0\n" + "\n".join(f'r{i}: "a" | r{i + 1}' for i in range(5000)) + '\nr5000: "a"'


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema, "b": {"anyOf": [{"type": "null"}]}}}
    return schema


@pytest.fixture(scope="module")
def checks() -> GrammarChecks:
    return GrammarChecks(seconds=0.5)


def test_it_says_what_the_compiler_says(checks: GrammarChecks) -> None:
    for grammar in ("start: /a+/", "start: (", "start: <|end|>", 'start: %json {"not": {}}', "start: /é/", ""):
        assert checks(grammar) == tuple(check_here(grammar))


def test_what_takes_too_long_is_stopped(checks: GrammarChecks) -> None:
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(ConstraintError, match=r"more than 0\.5 s"):
            plain_grammar(Constraint("json_schema", ENDLESS), checks)
    assert time.monotonic() - began < 10
    assert plain_grammar(Constraint("json_schema", {"type": "integer"}), checks)


def test_what_overflows_the_stack_is_refused(checks: GrammarChecks) -> None:
    with pytest.raises(ConstraintError):
        plain_grammar(Constraint("grammar", DEEP), checks)
    assert plain_grammar(Constraint("json_schema", nested(40)), checks)


def test_side_by_side(checks: GrammarChecks) -> None:
    """Those that hang, as many as there are places for them, hold up no other."""
    book = GrammarBook(checks)

    def make(number: int) -> str:
        schema: Any = ENDLESS if number % 16 == 0 else {"const": number}
        try:
            return book.plain(Constraint("json_schema", schema))
        except ConstraintError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(32)))
    for number, grammar in enumerate(made):
        if number % 16 == 0:
            assert "more than" in grammar
        else:
            assert json.dumps({"const": number})[:-1] in grammar
