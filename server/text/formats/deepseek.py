"""DeepSeek: a section of calls between tokens of its own.

V3 and R1 write `function`, the separator, the name, and the arguments in a fence of JSON; V3.1 the name, the separator
and the arguments. Both are read, whichever the model writes. Source: the checkpoints' chat templates and model cards.
"""

# ruff: noqa: RUF001 (the bars are DeepSeek's own)

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import SPACE, Steps
from .json_calls import call_identity
from .rules import Mark, Offered, quoted
from .section import Section
from .stream import Stream
from .writer import CONTROLS

_SECTION = Section(
    begin="<｜tool▁calls▁begin｜>",
    end="<｜tool▁calls▁end｜>",
    call="<｜tool▁call▁begin｜>",
    separator="<｜tool▁sep｜>",
    call_end="<｜tool▁call▁end｜>",
    tail=SPACE + "`",
)
FENCE, FENCE_END = "\n```json\n", "\n```"
_NAME_END = re.compile(rf"[{{`\s<{CONTROLS}]")


@dataclass(frozen=True, slots=True)
class DeepSeek:
    """`fenced`: calls are written as V3 and R1 do."""

    fenced: bool = False

    markers = _SECTION.markers
    openers = _SECTION.openers
    bare = ""

    def calls(self, stream: Stream, opener: str) -> Steps[None]:
        def start(head: str) -> Steps[None]:
            parts: list[str] = []
            yield from stream.skip()
            yield from stream.until(_NAME_END, parts.append)
            stream.begin("".join(parts) or head)
            yield from stream.skip()
            if (yield from stream.look("```")):
                yield from stream.shut("json")

        yield from _SECTION.calls(stream, opener, start)

    def grammar(self, calls: Sequence[Offered], mark: Mark, several: bool) -> Mapping[str, str]:
        def write(call: Offered) -> tuple[str, str]:
            if not self.fenced:
                return quoted(call.name), call.arguments
            return '"function"', f"{quoted(call.name + FENCE)} {call.arguments} {quoted(FENCE_END)}"

        return _SECTION.grammar(calls, mark, several, write)

    def identity(self, name: str, place: int) -> str:
        return call_identity()
