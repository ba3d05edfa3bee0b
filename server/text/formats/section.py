"""A section of calls between markers, each a head and its arguments: Kimi-K2 and DeepSeek write so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .base import SPACE, Malformed, Steps
from .rules import Mark, Offered, any_of, series
from .stream import Stream


@dataclass(frozen=True, slots=True)
class Section:
    """`begin` (`call` head `separator` arguments `call_end`)+ `end`. All but `call` and `separator` may be missing."""

    begin: str
    end: str
    call: str
    separator: str
    call_end: str
    tail: str = SPACE
    """Characters that are no part of the arguments at their end."""

    @property
    def markers(self) -> tuple[str, ...]:
        return self.begin, self.end, self.call, self.separator, self.call_end

    @property
    def openers(self) -> tuple[str, ...]:
        return self.begin, self.call

    def grammar(
        self, calls: Sequence[Offered], mark: Mark, several: bool, write: Callable[[Offered], tuple[str, str]]
    ) -> Mapping[str, str]:
        """`write`: what stands before and behind the separator of a call."""
        written = map(write, calls)
        one = f"{any_of(f'{head} {mark(self.separator)} {rest}' for head, rest in written)} {mark(self.call_end)}"
        listed = series(one, several, f'"\\n"? {mark(self.call)}')
        return {self.begin: f'{mark(self.call)} {listed} "\\n"? {mark(self.end)}', self.call: listed}

    def calls(self, stream: Stream, opener: str, start: Callable[[str], Steps[None]]) -> Steps[None]:
        """`start`, given a head, begins the call and reads up to its arguments. Raises Malformed."""
        if opener == self.begin:
            yield from stream.skip()
            if not (yield from stream.look(self.call)):
                raise Malformed
        while True:
            head, marker = yield from stream.head(self.separator, self.call_end, self.end, self.call)
            if marker != self.separator:
                raise Malformed
            yield from start(head.strip())
            yield from stream.skip()
            marker = yield from stream.pour(self.tail, self.call_end, self.end, self.call)
            stream.end()
            if marker == self.call:  # what it opens is held
                continue
            stream.drop()
            if marker == self.end:
                return
            yield from stream.skip()
            stream.hold()
            if not (yield from stream.look(self.call)):
                break
        stream.drop()
        yield from stream.shut(self.end, self.call)
