"""Kimi-K2: a section of calls, each an id, `functions.NAME:INDEX`, and its arguments.

Source: tool_call_guidance.md of moonshotai/Kimi-K2-Instruct. The id is the call's in the API too: the template shows it
to the model again, which counts on from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .base import Malformed, Steps
from .rules import Mark, Offered, quoted
from .section import Section
from .stream import Stream

_SECTION = Section(
    begin="<|tool_calls_section_begin|>",
    end="<|tool_calls_section_end|>",
    call="<|tool_call_begin|>",
    separator="<|tool_call_argument_begin|>",
    call_end="<|tool_call_end|>",
)
_HEAD = re.compile(r"(?P<prefix>functions\.)?(?P<name>.+?)(?P<index>:\d{1,9})?")


class Kimi:
    markers = _SECTION.markers
    openers = _SECTION.openers
    bare = ""

    def calls(self, stream: Stream, opener: str) -> Steps[None]:
        def start(head: str) -> Steps[None]:
            found = _HEAD.fullmatch(head)
            if found is None:
                raise Malformed
            stream.begin(found["name"], head if found["prefix"] and found["index"] else None)
            yield from ()

        yield from _SECTION.calls(stream, opener, start)

    def grammar(self, calls: Sequence[Offered], mark: Mark, several: bool) -> Mapping[str, str]:
        def write(call: Offered) -> tuple[str, str]:
            return f"{quoted(f'functions.{call.name}:')} /[0-9]{{1,3}}/", call.arguments

        return _SECTION.grammar(calls, mark, several, write)

    def identity(self, name: str, place: int) -> str:
        return f"functions.{name}:{place}"
