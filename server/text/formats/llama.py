"""Llama 3: `{"name": …, "parameters": {…}}`, which is all there is to tell it from an answer, or that behind a tag.

Source: "JSON based tool calling" of Meta's prompt format for Llama 3.1. Code behind the tag, which calls of built-in
tools are, is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .base import Steps
from .json_calls import call_identity, json_calls
from .rules import Mark, Offered, any_of, json_object, series
from .stream import Stream

TAG = "<|python_tag|>"


class Llama:
    markers = (TAG,)
    openers = (TAG,)
    bare = "{"

    def calls(self, stream: Stream, opener: str) -> Steps[None]:
        if opener == self.bare:
            stream.again()  # the bracket is the object's
        yield from json_calls(stream)

    def grammar(self, calls: Sequence[Offered], mark: Mark, several: bool) -> Mapping[str, str]:
        objects = series(any_of(json_object(call, "parameters") for call in calls), several, '"; "')
        return {self.bare: objects, TAG: objects}

    def identity(self, name: str, place: int) -> str:
        return call_identity()
