"""Hermes, and Qwen after it: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once for each call.

Source: the function-calling format of Nous Research's Hermes 2 Pro, and the chat templates of Qwen2.5 and Qwen3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .base import SPACE, Steps
from .json_calls import call_identity, json_calls
from .rules import Mark, Offered, any_of, json_object, series
from .stream import Stream

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    markers = (OPEN, CLOSE)
    openers = (OPEN,)
    bare = ""

    def calls(self, stream: Stream, opener: str) -> Steps[None]:
        yield from json_calls(stream)
        yield from stream.skip(SPACE + "}]")  # a bracket too many is the commonest mistake
        yield from stream.shut(CLOSE)

    def grammar(self, calls: Sequence[Offered], mark: Mark, several: bool) -> Mapping[str, str]:
        one = f'"\\n"? {any_of(map(json_object, calls))} "\\n"? {mark(CLOSE)}'
        return {OPEN: series(one, several, f'"\\n"? {mark(OPEN)}')}

    def identity(self, name: str, place: int) -> str:
        return call_identity()
