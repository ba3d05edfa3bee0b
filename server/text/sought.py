"""Control tokens that a template looks for in what it was given: there they stand under their plain names.

`content.split('</think>')` or `'<tool_call>' in content` ask what a text says, and a text of the request can only say
it in plain letters. What a template writes out is not touched by this, so no text becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import BuiltinMethodType
from typing import Any

from jinja2 import pass_eval_context
from jinja2.filters import do_replace
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Methods of strings whose first argument is something to look for.
_SEARCHES = frozenset(
    {
        *("count", "endswith", "find", "index", "lstrip", "partition", "removeprefix", "removesuffix", "replace"),
        *("rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "startswith", "strip"),
    }
)


class PlainNames:
    """Secret names, and the plain ones behind them."""

    def __init__(self, secret_of: Mapping[str, str]) -> None:
        self._plain_of = {secret: text for text, secret in secret_of.items()}
        self._pattern = re.compile("|".join(self._plain_of) or r"(?!)")

    def unmark(self, value: Any) -> Any:
        """Strings, also in lists, with plain names for secret ones; anything else as it is."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: self._plain_of[found[0]], value)
        return type(value)(map(self.unmark, value)) if type(value) in (list, tuple) else value

    def sought(self, text: str, what: Any) -> Any:
        """`what` as it stands in `text`: a secret name stays one only where the template has written it there."""
        if isinstance(what, tuple):
            return tuple(self.sought(text, one) for one in what)
        return what if not isinstance(what, str) or what in text else self.unmark(what)


class SearchingEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's, where methods and filters of strings find control tokens in the request's text by their plain names."""

    names: PlainNames

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(__obj, BuiltinMethodType) and __obj.__name__ in _SEARCHES:
            text = __obj.__self__
            if isinstance(text, str):
                args = (__self.names.sought(text, args[0]), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)


def replace_filter(names: PlainNames) -> Any:
    """Jinja's `replace`, which looks for its first argument likewise."""

    @pass_eval_context
    def replace(context: EvalContext, text: Any, old: Any, new: Any, count: int | None = None) -> str:
        shown = str(text)
        return do_replace(context, shown, names.sought(shown, old), new, count)

    return replace
