"""What came of one line: OpenAI's line of an output or error file, and the tokens that it took."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import msgspec

from .lines import Line

EXPIRED = ("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = ("batch_cancelled", "The batch was cancelled before this request was executed.")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one answer, or of all of a batch's."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """`line` is the input's line number, `text` a line of the output file, or of the error file when not `ok`.

    `ran` is False for a line that was never run: it counts neither as completed nor as failed.
    """

    line: int
    ok: bool
    text: bytes
    tokens: Tokens = Tokens()
    ran: bool = True


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = 0


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = 0


class _Usage(msgspec.Struct):
    """Of completions, and by the other names of responses."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_answer = msgspec.json.Decoder(_Answer)


def answered(line: Line, status: int, request_id: str, body: bytes) -> Result:
    """The route's answer to a line; `body` is its JSON."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return Result(line.number, status == 200, _text(line, response, None), _tokens(body) if status == 200 else Tokens())


def not_run(line: Line, reason: tuple[str, str]) -> Result:
    """A line whose batch ended first. `reason`: code and message."""
    return Result(line.number, False, _text(line, None, {"code": reason[0], "message": reason[1]}), ran=False)


def _text(line: Line, response: Any, error: Any) -> bytes:
    identity = f"batch_req_{uuid.uuid4().hex}"
    row = {"id": identity, "custom_id": line.custom_id, "response": response, "error": error}
    return msgspec.json.encode(row) + b"\n"


def _tokens(body: bytes) -> Tokens:
    usage = _answer.decode(body).usage or _Usage()
    before = usage.prompt_tokens_details or usage.input_tokens_details or _InputDetails()
    after = usage.completion_tokens_details or usage.output_tokens_details or _OutputDetails()
    return Tokens(
        usage.prompt_tokens + usage.input_tokens,
        before.cached_tokens or 0,
        usage.completion_tokens + usage.output_tokens,
        after.reasoning_tokens or 0,
    )
