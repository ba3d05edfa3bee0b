"""What gpt-oss writes, in its own format."""

from __future__ import annotations

import json
from typing import Any

THOUGHT = "<|channel|>analysis<|message|>Thinking é<|end|><|start|>assistant"


def says(text: str) -> str:
    """A thought and an answer."""
    return f"{THOUGHT}<|channel|>final<|message|>{text}"


def calls(name: str, **arguments: Any) -> str:
    """A thought and a call."""
    return f"{THOUGHT}<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{json.dumps(arguments)}"
