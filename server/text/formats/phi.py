"""Phi-4-mini: `functools` and a list of JSON objects, or the same between `<|tool_call|>` and `<|/tool_call|>`.

Source: the model card of microsoft/Phi-4-mini-instruct, and the prompt of vLLM's template for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .base import Steps
from .json_calls import call_identity, json_calls
from .rules import Mark, Offered, json_list
from .stream import Stream

LIST, OPEN, CLOSE = "functools[", "<|tool_call|>", "<|/tool_call|>"


class Phi:
    markers = (LIST, OPEN, CLOSE)
    openers = (LIST, OPEN)
    bare = ""

    def calls(self, stream: Stream, opener: str) -> Steps[None]:
        yield from json_calls(stream, in_list=opener == LIST)
        yield from stream.skip()
        yield from stream.shut(CLOSE)

    def grammar(self, calls: Sequence[Offered], mark: Mark, several: bool) -> Mapping[str, str]:
        listed = json_list(calls, several)
        return {LIST: listed, OPEN: f'"[" {listed} {mark(CLOSE)}'}

    def identity(self, name: str, place: int) -> str:
        return call_identity()
