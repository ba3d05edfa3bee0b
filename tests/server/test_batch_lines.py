"""Input files of batches: what is taken, and that every wrong line is named with its field."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yardmaster.server.batch.lines import MAX_ERRORS, LineError, parse_line, read_lines, survey

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODY = {"messages": [{"role": "user", "content": "é🙂"}], "n": 2}


def row(**changes: Any) -> bytes:
    fields = {"custom_id": "a", "method": "POST", "url": CHAT, "body": BODY} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def found(path: Path, data: bytes, **bounds: Any) -> list[tuple[str, int | None, str | None]]:
    path.write_bytes(data)
    errors = survey(path, **{"max_lines": 100, "max_line_bytes": 10_000} | bounds).errors
    return [(error.code, error.line, error.param) for error in errors]


def test_a_line_is_read_and_its_body_kept_byte_for_byte() -> None:
    raw = b'  { "url":"/v1/completions" ,"body": {"prompt" : "\\u00e9", "x":[1,2 ]},'
    raw += b'"method":"POST","custom_id":"\\u00fc", "z":1}'
    line = parse_line(7, raw.strip())
    assert (line.number, line.custom_id, line.url) == (7, "ü", TEXT)
    assert line.body == b'{"prompt" : "\\u00e9", "x":[1,2 ]}'


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (row(custom_id=...), "missing_required_parameter", "custom_id"),
        (row(custom_id=None), "missing_required_parameter", "custom_id"),
        (row(custom_id=3), "invalid_value", "custom_id"),
        (row(custom_id=""), "invalid_value", "custom_id"),
        (row(custom_id="x" * 513), "invalid_value", "custom_id"),
        (row(method=...), "missing_required_parameter", "method"),
        (row(method="GET"), "invalid_method", "method"),
        (row(method="post"), "invalid_method", "method"),
        (row(url=...), "missing_required_parameter", "url"),
        (row(url="/v1/files"), "invalid_url", "url"),
        (row(url="http://elsewhere/v1/chat/completions"), "invalid_url", "url"),
        (row(url="/v1/chat/completions/../completions"), "invalid_url", "url"),
        (row(url=["/v1/completions"]), "invalid_value", "url"),
        (row(body=...), "missing_required_parameter", "body"),
        (row(body="{}"), "invalid_value", "body"),
        (row(body=[{}]), "invalid_value", "body"),
        (row(body={"stream": True}), "invalid_value", "body.stream"),
        (b"[1]", "invalid_json_line", None),
        (b"null", "invalid_json_line", None),
        (b"{", "invalid_json_line", None),
        (row() + b"x", "invalid_json_line", None),
        (b'{"custom_id": "\\ud800"}', "invalid_json_line", None),
        (b'{"body": NaN}', "invalid_json_line", None),
        (b'{"x":' + b"[" * 4000 + b"]" * 4000 + b"}", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_utf8", None),
        (b'{"z": "\xc3"}', "invalid_utf8", None),
        (b"\xef\xbb\xbf{}", "invalid_json_line", None),
    ],
)
def test_a_wrong_line_is_named(raw: bytes, code: str, param: str | None, tmp_path: Path) -> None:
    good = row(custom_id="g")
    assert found(tmp_path / "f", good + b"\n\r\n" + raw + b"\n" + row(custom_id="h") + b"\n") == [(code, 3, param)]
    with pytest.raises(LineError, match="line 3: " + (f"{param}: " if param else "")):
        list(read_lines(tmp_path / "f", 10_000))


def test_what_only_the_whole_file_shows(tmp_path: Path) -> None:
    path = tmp_path / "f"
    a, b = row(custom_id="a"), row(custom_id="b", url=TEXT)
    assert found(path, b"\n".join([a, b, a])) == [("duplicate_custom_id", 3, "custom_id")]
    assert "line 1" in str(survey(path, 10, 1000).errors[0])
    assert found(path, b"\n".join([a, b]), endpoint=CHAT) == [("mismatched_url", 2, "url")]
    assert found(path, b"") == found(path, b"\n \r\n\t\n") == [("empty_file", None, None)]
    assert found(path, b"\n".join([a, b]), max_lines=2) == []
    assert found(path, b"\n".join([a, b, row(custom_id="c")]), max_lines=2) == [("too_many_lines", 3, None)]


def test_a_line_may_have_so_many_bytes_and_no_more(tmp_path: Path) -> None:
    path, line = tmp_path / "f", row()
    assert found(path, line + b"\n", max_line_bytes=len(line) + 1) == []
    assert found(path, line, max_line_bytes=len(line)) == []
    assert found(path, line, max_line_bytes=len(line) - 1) == [("line_too_long", 1, None)]
    # It is not read to its end, nor taken for several lines.
    assert found(path, b" " * 50_000 + line + b"\n" + line) == [("line_too_long", 1, None)]


def test_errors_are_told_up_to_a_bound(tmp_path: Path) -> None:
    errors = found(tmp_path / "f", b"x\n" * 80)
    assert [line for _, line, _ in errors] == list(range(1, MAX_ERRORS + 1))
    # What a client wrote is repeated in part, and harmlessly.
    path = tmp_path / "g"
    path.write_bytes(row(url="\x1b[2J" + "x" * 5000))
    message = str(survey(path, 10, 10_000).errors[0])
    assert len(message) < 250
    assert message.isprintable()


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_no_bytes_make_it_fail_otherwise(noise: bytes, seed: int) -> None:
    draw = random.Random(seed)
    raw = bytearray(row())
    for byte in noise:
        raw[draw.randrange(len(raw))] = byte
    for data in (bytes(raw), noise):
        with contextlib.suppress(LineError):
            assert parse_line(1, data).number == 1


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(row() + b"\nbroken\n")
    lines = read_lines(path, 1000)
    assert next(lines).custom_id == "a"
    with pytest.raises(LineError, match="line 2"):
        next(lines)
