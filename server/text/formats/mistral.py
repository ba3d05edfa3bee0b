"""Mistral: `[TOOL_CALLS]` and a list of JSON objects, or, since its tokenizer v11, `[TOOL_CALLS]name{…}` for each call.

Between name and arguments v11 may have `[CALL_ID]` with an id, and v13 has `[ARGS]`. Source: mistral-common.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Mapping, Sequence

from .base import Malformed, Steps
from .json_calls import json_calls, json_value
from .rules import Mark, Offered, any_of, json_list, quoted, series
from .stream import Stream
from .writer import CONTROLS

OPEN, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_ALPHABET = string.ascii_letters + string.digits
_NAME_END = re.compile(rf"[\[{{\s{CONTROLS}]")
_IDENTITY = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Mistral:
    markers = (OPEN, CALL_ID, ARGS)
    openers = (OPEN,)
    bare = ""

    def calls(self, stream: Stream, opener: str) -> Steps[None]:
        yield from stream.skip()
        if (yield from stream.peek()) in "[{":
            yield from json_calls(stream)
            return
        name = yield from self._word(stream)
        identity = None
        if (yield from stream.look(CALL_ID)):
            word = yield from self._word(stream)
            identity = word if _IDENTITY.fullmatch(word) else None
        yield from stream.look(ARGS)
        yield from stream.skip()
        if (yield from stream.peek()) != "{":
            raise Malformed
        stream.begin(name, identity)
        yield from json_value(stream, stream.argue)

    def grammar(self, calls: Sequence[Offered], mark: Mark, several: bool) -> Mapping[str, str]:
        """By the vocabulary: a marker of arguments came with the form that has one."""
        if not mark.is_token(ARGS):
            return {OPEN: f'" "? "[" {json_list(calls, several)}'}
        identity = f"({mark(CALL_ID)} /[A-Za-z0-9]{{9}}/)?"
        one = any_of(f"{quoted(call.name)} {identity} {mark(ARGS)} {call.arguments}" for call in calls)
        return {OPEN: series(one, several, mark(OPEN))}

    def identity(self, name: str, place: int) -> str:
        """Its templates take nine letters or digits, and nothing else."""
        return "".join(secrets.choice(_ALPHABET) for _ in range(9))

    def _word(self, stream: Stream) -> Steps[str]:
        parts: list[str] = []
        yield from stream.until(_NAME_END, parts.append)
        yield from stream.skip()
        return "".join(parts)
