"""Compiles a chat template so that what it writes itself and what it was given can be told apart afterwards.

The source is parsed, each control token in its literal text is replaced by the token's secret name (see tokenizer.py),
and only then compiled. So control tokens of the result are those with a secret name: written by the template, never
by its input, whatever is joined, trimmed, split or sliced on the way. Where the template compares its input with one,
both are compared as plain text (sought.py). The environment is that of transformers'
`apply_chat_template`: an immutable sandbox, trim_blocks, lstrip_blocks, loop controls, `tojson` without HTML escapes,
`raise_exception`, `strftime_now`, `{% generation %}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .sought import PlainNames, SearchingEnvironment, replace_filter

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "model", "ipython", "observation")
"""The words that a template may put between two halves of a control token: `'<|' + message.role + '|>'`."""


class Refused(TemplateError):
    """The template called `raise_exception`."""


def compile_template(source: str, secret_of: Mapping[str, str]) -> Template:
    """`secret_of`: control token's text to its secret name. Raises jinja2.TemplateError where `source` is none."""
    environment = SearchingEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # folding constants would compute 'x' * 10**10 before any time limit holds
        extensions=[LoopControlExtension, _Generation],
    )
    environment.names = names = PlainNames(secret_of)
    environment.filters |= {"tojson": _tojson, "replace": replace_filter(names)}
    environment.globals.update(raise_exception=_refuse, strftime_now=_strftime_now, namespace=_Namespace)
    halves = _halves(secret_of)
    # Attributes and not globals, so that no variable of a request can take their place.
    vars(environment)["control_token"] = lambda before, word, after: _control_token(halves, before, word, after)
    vars(environment)["unmark"] = names.unmark
    tree = _Marker(secret_of, halves).visit(environment.parse(source))
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None))


def _refuse(message: object) -> None:
    raise Refused(str(message))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _Namespace(Namespace):
    """Jinja's, without the names that lead into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no `self`, so that namespace(self=…) works
        Namespace.__init__(*args, **kwargs)
        for name in dict(*args[1:], **kwargs):
            _check_name(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}: names that begin with an underscore are reserved")


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; here it is a scope and nothing more."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


# Control tokens in the template's literals

Halves = dict[tuple[str, str], dict[str, str]]
"""(text before, text after) to {role word: secret name of the token that the three make}."""


def _halves(secret_of: Mapping[str, str]) -> Halves:
    halves: Halves = {}
    for text, secret in secret_of.items():
        for role in ROLES:
            for found in re.finditer(re.escape(role), text):
                before, after = text[: found.start()], text[found.end() :]
                if before and after:
                    halves.setdefault((before, after), {})[role] = secret
    return halves


def _control_token(halves: Halves, before: str, word: Any, after: str) -> str:
    if isinstance(word, str) and word in halves[before, after]:
        return halves[before, after][word]
    return before + (word if isinstance(word, str) else str(word)) + after


class _Marker(NodeTransformer):
    """Gives control tokens in literals their secret names; also those that enclose a role word."""

    def __init__(self, secret_of: Mapping[str, str], halves: Halves) -> None:
        longest_first = sorted(secret_of, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._secret_of = secret_of
        self._halves = sorted(halves, key=lambda pair: len(pair[0]) + len(pair[1]), reverse=True)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = self._mark(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = self._mark(node.value)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        node.nodes = self._enclose(node.nodes)
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node.nodes = self._enclose(node.nodes)
        return self.generic_visit(node)

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        first, *rest = self._enclose(list(_summands(node)))
        total = self.visit(first)
        for term in rest:
            total = nodes.Add(total, self.visit(term), lineno=node.lineno, environment=node.environment)
        return total

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if any(map(self._is_marked, node.find_all(nodes.Const))):
            node.expr = _call("unmark", [node.expr])
            for operand in node.ops:
                operand.expr = _call("unmark", [operand.expr])
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        if any(map(self._is_marked, node.find_all(nodes.Const))):
            node.node = _call("unmark", [node.node])
            node.args = [_call("unmark", [argument]) for argument in node.args or ()]
        return node

    def _is_marked(self, node: nodes.Const) -> bool:
        return isinstance(node.value, str) and any(secret in node.value for secret in self._secret_of.values())

    def _mark(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._secret_of[found[0]], text)

    def _enclose(self, parts: Sequence[nodes.Expr]) -> list[nodes.Expr]:
        """`'…<|', role, '|>…'` becomes `'…', control_token('<|', role, '|>'), '…'`."""
        result = list(parts)
        for place in range(1, len(result) - 1):
            left, right = _literal(result[place - 1]), _literal(result[place + 1])
            if left is None or right is None:
                continue
            for before, after in self._halves:
                if left.endswith(before) and right.startswith(after):
                    _set_literal(result[place - 1], left[: -len(before)])
                    _set_literal(result[place + 1], right[len(after) :])
                    result[place] = _call_control_token(before, result[place], after)
                    break
        return result


def _summands(node: nodes.Expr) -> Iterator[nodes.Expr]:
    """Of a chain of additions, left to right; a loop, as generated templates chain hundreds."""
    right: list[nodes.Expr] = []
    while isinstance(node, nodes.Add):
        right.append(node.right)
        node = node.left
    yield node
    yield from reversed(right)


def _literal(node: nodes.Expr) -> str | None:
    if isinstance(node, nodes.TemplateData):
        return node.data
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None


def _set_literal(node: nodes.Expr, text: str) -> None:
    if isinstance(node, nodes.TemplateData):
        node.data = text
    elif isinstance(node, nodes.Const):
        node.value = text


def _call_control_token(before: str, word: nodes.Expr, after: str) -> nodes.Expr:
    # The halves go in as plain literals: neither holds a whole control token, so marking leaves them alone.
    return _call("control_token", [_const(before, word), word, _const(after, word)])


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Expr:
    """Of a function that is an attribute of the environment."""
    like = arguments[0]
    environment: Environment = like.environment  # type: ignore[assignment]
    function = nodes.EnvironmentAttribute(name, lineno=like.lineno, environment=environment)
    return nodes.Call(function, arguments, [], None, None, lineno=like.lineno, environment=environment)


def _const(value: str, like: nodes.Expr) -> nodes.Expr:
    return nodes.Const(value, lineno=like.lineno, environment=like.environment)
