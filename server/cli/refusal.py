"""What a server says for itself when it refuses: one line, bounded, and nothing that could drive a terminal."""

from __future__ import annotations

import json
from typing import Any

from .console import plain

_CHARACTERS = 500


def refusal(body: bytes | str) -> str:
    """Of a response's body: OpenAI's `error.message` where it has one, else the body itself."""
    try:
        return error_text(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return _line(body.decode(errors="replace") if isinstance(body, bytes) else body)


def error_text(error: Any) -> str:
    """Of OpenAI's `error` object, or of what stands in its place."""
    return _line(str(error.get("message", error) if isinstance(error, dict) else error))


def _line(text: str) -> str:
    return plain(" ".join(text[: 4 * _CHARACTERS].split()))[:_CHARACTERS]
