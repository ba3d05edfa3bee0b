"""From what a request asks of its answer's form to a grammar for the engine, in llguidance's Lark dialect.

A `Constraint` is the form of the answer's text. Around it stands what the model writes beside it, which its `Speech`
knows: reasoning before the answer, calls in its place, the headers of Harmony's messages. All of that is part of the
grammar, so that none of it can be malformed. Everything a user brought is checked here, before the engine sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, Protocol

from ...engine.sampling_params import StructuredOutputsParams
from .formats.rules import Offered

MAX_GRAMMAR_BYTES = 1 << 18
MAX_CHOICES = 4096
# Between a JSON text's tokens: enough to indent, too little for a model to lose itself in.
JSON_OPTIONS = {"whitespace_pattern": r"[ \n\t]{0,24}"}
COMPACT_OPTIONS = {"whitespace_flexible": False}
ANY_OBJECT = {"type": "object"}
_ESCAPES = re.compile(r"\\.|[/\n\r]", re.DOTALL)  # of a regular expression: what is escaped already stays as it is
_ESCAPED = {"/": "\\/", "\n": "\\n", "\r": "\\r", "\\\n": "\\n", "\\\r": "\\r"}
_DEPTH = 128  # of a schema; llguidance's own reader of JSON takes little more

_CONVERTING = Lock()  # of llama.cpp's notation: Python that works for up to a second; several would stop all else

Kind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]


Check = Callable[[str], tuple[bool, list[str]]]
"""Compiles a grammar: whether it is wrong, and what there is to say of it."""


class ConstraintError(ValueError):
    """The constraint cannot be met as it stands; one line for the user, without the field's name.

    `call`: the function that is at fault, where it is one, by its place among the calls.
    """

    def __init__(self, message: str, call: int | None = None) -> None:
        super().__init__(message)
        self.call = call


class TookLong(ConstraintError):
    """It may be right, but nobody will know in time."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """`value`: a JSON schema, nothing for any JSON object, a regular expression, the texts to choose from, or a

    grammar in Lark's or llama.cpp's (GBNF) notation with a rule `start` or `root`. `compact`: JSON without spaces.
    """

    kind: Kind
    value: Any = None
    compact: bool = False

    @classmethod
    def of(cls, asked: StructuredOutputsParams) -> Constraint | None:
        """None where nothing is asked for. Raises ConstraintError, also where two forms contradict each other."""
        forms: dict[Kind, Any] = {
            "json_schema": asked.json,
            "json_object": asked.json_object or None,
            "regex": asked.regex,
            "choice": asked.choice,
            "grammar": asked.grammar,
        }
        given: list[tuple[Kind, Any]] = [(kind, value) for kind, value in forms.items() if value is not None]
        if len(given) > 1:
            raise ConstraintError("give only one of json, regex, choice, grammar and json_object")
        if not given:
            return None
        ((kind, value),) = given
        if kind == "json_schema" and isinstance(value, str):
            value = _parsed(value)
        return cls(kind, value, asked.disable_any_whitespace)


@dataclass(frozen=True, slots=True)
class Call:
    """A function that may be called, with the schema of its arguments.

    `strict` False: where the schema cannot be compiled, the arguments are any JSON object.
    """

    name: str
    parameters: dict[str, Any]
    strict: bool = True


class Speech(Protocol):
    """How a model words what it says, around and beside an answer, behind one prompt."""

    @property
    def name(self) -> str:
        """Of this one among all that one model may have."""

    def grammar(self, answer: str | None, calls: Sequence[Offered], must_call: bool, several: bool) -> str:
        """`answer`: a rule that the answer follows, None where any text is one. With `must_call` there is no answer but

        calls. `several`: more than one call may be made at once.
        """


def plain_grammar(constraint: Constraint, check: Check | None = None) -> str:
    """The whole output is the answer. `check` is `check_here` by default. Raises ConstraintError."""
    return _checked(f"start: {_body(constraint)}", check or check_here)


def chat_grammar(
    speech: Speech,
    constraint: Constraint | None,
    calls: Sequence[Call] = (),
    *,
    must_call: bool = False,
    several: bool = True,
    check: Check | None = None,
) -> str:
    """What a model says next in a conversation. `constraint` None: any text is an answer. Raises ConstraintError."""
    check = check or check_here
    if must_call and not calls:
        raise ConstraintError("a call is required, and there is no function to call")
    rules: list[str] = []
    answer = None
    if constraint is not None and not must_call:
        answer = _body(constraint)
        _checked(f"start: {answer}", check)
        rules.append(f"form: {answer}")
    offered = []
    for place, call in enumerate(calls):
        try:
            rules.append(f"arguments{place}: {_arguments(call, check)}")
        except ConstraintError as error:
            raise ConstraintError(str(error), place) from None
        offered.append(Offered(call.name, f"arguments{place}"))
    said = speech.grammar("form" if answer is not None else None, offered, must_call, several)
    return _bounded("\n".join([said, *rules]))


def _arguments(call: Call, check: Check) -> str:
    try:
        arguments = _json(call.parameters or ANY_OBJECT)
        _checked(f"start: {arguments}", check)
    except ConstraintError as error:
        if call.strict or isinstance(error, TookLong):  # a hundred functions could take that long, each of them
            raise
        arguments = _json(ANY_OBJECT)
    return arguments


def _body(constraint: Constraint) -> str:
    value, options = constraint.value, COMPACT_OPTIONS if constraint.compact else JSON_OPTIONS
    match constraint.kind:
        case "json_schema":
            return _json(value, options)
        case "json_object":
            return _json(ANY_OBJECT, options)
        case "regex":
            if not isinstance(value, str) or not value:
                raise ConstraintError("the regular expression must be a text that is not empty")
            return "/" + _ESCAPES.sub(lambda match: _ESCAPED.get(match[0], match[0]), value) + "/"
        case "choice":
            if not value or len(value) > MAX_CHOICES or not all(isinstance(one, str) and one for one in value):
                raise ConstraintError(f"there must be 1 to {MAX_CHOICES} choices, and none of them empty")
            return "(" + " | ".join(_literal(one) for one in value) + ")"
        case "grammar":
            return f"%lark {{\n{_lark(value)}\n}}"


def _parsed(schema: str) -> Any:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        raise ConstraintError("the JSON schema is a text that is not JSON") from None


def _json(schema: Any, options: dict[str, Any] = JSON_OPTIONS) -> str:
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ConstraintError("the JSON schema must be an object")
    if _deeper_than(schema, _DEPTH):
        raise ConstraintError(f"the JSON schema is nested more than {_DEPTH} levels deep")
    return "%json " + json.dumps(schema | {"x-guidance": options}, ensure_ascii=True)


def _literal(text: str) -> str:
    """Lark's string, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=True)


def _lark(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ConstraintError("the grammar must be a text that is not empty")
    if "::=" in text:
        from llguidance.gbnf_to_lark import gbnf_to_lark

        try:
            with _CONVERTING:
                text = gbnf_to_lark(_bounded(text))
        except ConstraintError:
            raise
        except Exception as error:  # it raises bare ones too
            raise ConstraintError(f"the grammar cannot be read: {_first_line(str(error))}") from None
    return _bounded(text)


def check_here(grammar: str) -> tuple[bool, list[str]]:
    """In this process, however long it takes and whatever it does to the stack: for the grammars of whom one trusts."""
    from llguidance import LLMatcher

    found: tuple[bool, list[str]] = LLMatcher.validate_grammar_with_warnings(grammar, None)
    return found


def _checked(grammar: str, check: Check) -> str:
    """Compiled once without a vocabulary: nothing is sent on that is wrong by itself."""
    wrong, messages = check(_bounded(grammar))
    if wrong:
        raise ConstraintError(_first_line(messages[0]))
    if any("no tokenizer" in message for message in messages):
        raise ConstraintError("it names special tokens, or tokens by id, which are not for a request to use")
    return grammar


def _bounded(grammar: str) -> str:
    if len(grammar) > MAX_GRAMMAR_BYTES:
        raise ConstraintError(
            f"it is {len(grammar)} characters long as a grammar; at most {MAX_GRAMMAR_BYTES} are taken"
        )
    return grammar


def _deeper_than(value: Any, levels: int) -> bool:
    """Without recursion: the value comes from outside."""
    level = [value]
    for _ in range(levels):
        inner: list[Any] = []
        for one in level:
            inner += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        if not inner:
            return False
        level = inner
    return True


def _first_line(message: str) -> str:
    """llguidance's errors go on with positions in a text that the user did not write."""
    line = (message.strip().splitlines() or ["it cannot be compiled"])[0]
    return line.removeprefix("at 1(8): ").removeprefix("ERROR: ")[:400]
