"""Calls as JSON: `{"name": …, "arguments": {…}}`, by themselves, several, or in a list. Shared by most families."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable

from .base import SPACE, Malformed, Steps
from .stream import Stream
from .writer import CONTROLS, is_control

ARGUMENTS = ("arguments", "parameters")
WRAPPER = "function"  # {"type": "function", "function": {"name": …}}
CALL_KEYS = (*ARGUMENTS, WRAPPER, "name", "type", "id")
# No JSON goes on with "<" outside of a string, but a text marker begins with it.
_OUTSIDE = re.compile(rf'["{{}}\[\],<{CONTROLS}]')
_INSIDE = re.compile(rf'["\\{CONTROLS}]')


def call_identity() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def json_calls(stream: Stream, in_list: bool = False) -> Steps[None]:
    """One object after the other, with or without commas or semicolons between, or a list of them.

    in_list: its bracket has been taken. Raises Malformed where an object, of which nothing is out yet, is no call.
    """
    yield from stream.skip()
    if not in_list and (yield from stream.peek()) == "[":
        yield from stream.take()
        yield from stream.skip()
        in_list = True
    if (yield from stream.peek()) != "{":
        raise Malformed
    while True:
        yield from json_call(stream)
        yield from stream.skip(SPACE + ",;")
        if (yield from stream.peek()) != "{":
            break
        stream.hold()
    if in_list and (yield from stream.peek()) == "]":
        yield from stream.take()


def json_call(stream: Stream) -> Steps[None]:
    """One object. Raises Malformed as long as nothing of it is out."""
    call = _Call(stream)
    try:
        yield from call.read()
    except Malformed:
        if not stream.calling:
            raise
    stream.end()


def json_value(stream: Stream, sink: Callable[[str], None]) -> Steps[None]:
    """Hands over one value. It ends where its brackets do, or where no JSON goes on. Raises Malformed at the end."""
    depth = 0
    while True:
        character = yield from stream.until(_OUTSIDE, sink)
        if character == "<" or is_control(character) or (depth == 0 and character in ",}]"):
            return
        sink((yield from stream.take()))
        if character == '"':
            yield from _string(stream, sink)
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        if depth == 0:
            return


def _string(stream: Stream, sink: Callable[[str], None]) -> Steps[None]:
    """The rest of a string."""
    while True:
        character = yield from stream.until(_INSIDE, sink)
        if is_control(character):
            return
        sink((yield from stream.take()))
        if character == '"':
            return
        if not is_control((yield from stream.peek())):
            sink((yield from stream.take()))


class _Call:
    """An object that is being read. Its arguments go out as they come, once the name is known."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._name: str | None = None
        self._early: str | None = None  # arguments that came before the name

    def read(self) -> Steps[None]:
        yield from self._members()
        if not self._stream.calling:
            # Where nothing but its form says that this is a call, the form must be whole.
            if self._name is None or self._stream.offered_only:
                raise Malformed
            self._stream.begin(self._name)

    def _members(self, wrapped: bool = False) -> Steps[None]:
        stream = self._stream
        yield from stream.take()
        while True:
            yield from stream.skip(SPACE + ",")
            character = yield from stream.peek()
            if character == "}":
                yield from stream.take()
                return
            if character != '"':
                raise Malformed
            key = _decoded((yield from self._raw()))
            yield from stream.skip()
            if (yield from stream.peek()) != ":":
                raise Malformed
            yield from stream.take()
            yield from stream.skip()
            yield from self._member(key, wrapped)

    def _member(self, key: str | None, wrapped: bool) -> Steps[None]:
        stream = self._stream
        if stream.offered_only and key not in CALL_KEYS:
            raise Malformed  # an answer in JSON need not wait for its end
        if key == WRAPPER and not wrapped and (yield from stream.peek()) == "{":
            yield from self._members(wrapped=True)
        elif key in ARGUMENTS and not stream.calling and self._name is not None:
            stream.begin(self._name)
            yield from self._arguments()
        elif key in ARGUMENTS and not stream.calling:
            self._early = yield from self._raw()
        else:
            value = yield from self._raw()
            if key == "name" and not stream.calling:
                self._name = _decoded(value)
                if self._name is None:
                    raise Malformed
                if self._early is not None:
                    stream.begin(self._name)
                    stream.argue(_object(self._early))

    def _arguments(self) -> Steps[None]:
        stream = self._stream
        if (yield from stream.peek()) in "{[":
            yield from json_value(stream, stream.argue)
            return
        parts: list[str] = []
        try:
            yield from json_value(stream, parts.append)
        finally:
            stream.argue(_object("".join(parts)))

    def _raw(self) -> Steps[str]:
        parts: list[str] = []
        yield from json_value(self._stream, parts.append)
        return "".join(parts).strip()


def _decoded(value: str) -> str | None:
    """The text of a JSON string, None where it is none."""
    try:
        text = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return text if isinstance(text, str) else None


def _object(value: str) -> str:
    """Arguments that came as a string of JSON, as some models write them, or as null."""
    value = value.strip()
    text = "{}" if value == "null" else _decoded(value)
    if text is None:
        return value
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # "\ud800" is JSON, and no text
