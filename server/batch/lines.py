"""The input of a batch: JSON lines, each one request. Read with bounds, and told apart by line and field when wrong.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {…}}

Whether the server can answer a body is its routes' business; here a body is bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

RESPONSES = "/v1/responses"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", RESPONSES)
MAX_CUSTOM_ID = 512
MAX_ERRORS = 50  # of one file that are told; whoever has more sees them after mending these

_ABSENT = msgspec.Raw()
_SHOWN = 60  # characters of what a client wrote that an error repeats


class LineError(ValueError):
    """What is wrong with a file. `line` counts from 1 and is None for the file as a whole; `param` names the field."""

    def __init__(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = line
        self.param = param

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        field = "" if self.param is None else f"{self.param}: "
        return f"{place}{field}{self.args[0]}"


@dataclass(frozen=True, slots=True)
class Line:
    """One request. `body` is a JSON object."""

    number: int
    custom_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Survey:
    """What a whole file holds: how many requests, and the first errors."""

    lines: int
    errors: tuple[LineError, ...]


def survey(path: Path, max_lines: int, max_line_bytes: int, endpoint: str | None = None) -> Survey:
    """Read all of a file, without keeping it. `endpoint`: the only `url` that its lines may have."""
    seen: dict[str, int] = {}
    errors: list[LineError] = []
    count = 0
    with path.open("rb") as file:
        rows = raw_lines(file, max_line_bytes)
        while len(errors) < MAX_ERRORS:
            try:
                number, raw = next(rows)
            except StopIteration:
                break
            except LineError as error:  # a line without end: what follows it cannot be told
                errors.append(error)
                break
            count += 1
            if count > max_lines:
                errors.append(LineError("too_many_lines", f"a file has at most {max_lines} requests", number))
                break
            try:
                line = parse_line(number, raw)
                if endpoint is not None and line.url != endpoint:
                    raise LineError("mismatched_url", f"must be the batch's endpoint, {endpoint}", number, "url")
                if line.custom_id in seen:
                    message = f"{_show(line.custom_id)} is that of line {seen[line.custom_id]} already"
                    raise LineError("duplicate_custom_id", message, number, "custom_id")
                seen[line.custom_id] = number
            except LineError as error:
                errors.append(error)
    if not count and not errors:
        errors.append(LineError("empty_file", "the file holds no request"))
    return Survey(count, tuple(errors))


def read_lines(path: Path, max_line_bytes: int) -> Iterator[Line]:
    """The requests of a file, in order, one at a time. Raises LineError at the first that is none."""
    with path.open("rb") as file:
        for number, raw in raw_lines(file, max_line_bytes):
            yield parse_line(number, raw)


def raw_lines(file: BinaryIO, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Numbers and bytes of the lines that are not blank. Raises LineError at one that is too long."""
    number = 0
    while raw := file.readline(max_line_bytes + 1):
        number += 1
        if len(raw) > max_line_bytes:
            raise LineError("line_too_long", f"a line has at most {max_line_bytes} bytes", number)
        if raw := raw.strip(b" \t\r\n"):
            yield number, raw


class _Row(msgspec.Struct):
    """Values stay bytes until they are looked at: nothing is made of what a hostile line nests in them."""

    custom_id: msgspec.Raw = _ABSENT
    method: msgspec.Raw = _ABSENT
    url: msgspec.Raw = _ABSENT
    body: msgspec.Raw = _ABSENT


class _Body(msgspec.Struct):
    stream: msgspec.Raw = _ABSENT
    store: msgspec.Raw = _ABSENT
    background: msgspec.Raw = _ABSENT
    previous_response_id: msgspec.Raw = _ABSENT


_row = msgspec.json.Decoder(_Row)
_body = msgspec.json.Decoder(_Body)
_text = msgspec.json.Decoder(str)


def parse_line(number: int, raw: bytes) -> Line:
    """One request of its line. Raises LineError, naming the field."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise LineError("invalid_utf8", f"is not UTF-8, at byte {error.start + 1}", number) from None
    if not raw.startswith(b"{"):
        raise LineError("invalid_json_line", "must be a JSON object", number)
    try:
        row = _row.decode(raw)
        custom_id = _string(row.custom_id, "custom_id", number)
        if not 0 < len(custom_id) <= MAX_CUSTOM_ID:
            message = f"must have 1 to {MAX_CUSTOM_ID} characters, has {len(custom_id)}"
            raise LineError("invalid_value", message, number, "custom_id")
        method = _string(row.method, "method", number)
        if method != "POST":
            raise LineError("invalid_method", f"must be POST, got {_show(method)}", number, "method")
        url = _string(row.url, "url", number)
        if url not in ENDPOINTS:
            message = f"must be {' or '.join(ENDPOINTS)}, got {_show(url)}"
            raise LineError("invalid_url", message, number, "url")
        body = bytes(row.body)
        if not body.startswith(b"{"):
            raise _wrong(row.body, "body", "a JSON object", number)
        _refuse(_body.decode(body), url, number)
    except LineError:
        raise
    except RecursionError:
        raise LineError("invalid_json_line", "is nested too deeply", number) from None
    except (msgspec.MsgspecError, UnicodeError, ValueError):
        raise LineError("invalid_json_line", "is not valid JSON", number) from None
    return Line(number, custom_id, url, body)


def _refuse(body: _Body, url: str, number: int) -> None:
    """What an endpoint takes and a batch does not."""
    fields = [("stream", body.stream, "a batch has no streams: leave it out")]
    if url == RESPONSES:
        kept = "a batch keeps no responses: leave it out"
        fields += [("store", body.store, kept), ("background", body.background, kept)]
        fields += [("previous_response_id", body.previous_response_id, "a batch's requests stand alone: leave it out")]
    for name, value, why in fields:
        if bytes(value) not in (b"", b"null", b"false"):
            raise LineError("invalid_value", why, number, f"body.{name}")


def _string(raw: msgspec.Raw, param: str, number: int) -> str:
    if not bytes(raw).startswith(b'"'):
        raise _wrong(raw, param, "a string", number)
    return _text.decode(raw)


def _wrong(raw: msgspec.Raw, param: str, wanted: str, number: int) -> LineError:
    if bytes(raw) in (b"", b"null"):
        return LineError("missing_required_parameter", f"is missing, and must be {wanted}", number, param)
    return LineError("invalid_value", f"must be {wanted}", number, param)


def _show(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
