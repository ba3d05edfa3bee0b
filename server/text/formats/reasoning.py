"""Where a model's reasoning stands, and whether the prompt has begun it already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..tokenizer import Tokenizer

Begun = Literal["open", "ended", "not yet"]

TAIL = 32  # tokens of the prompt in which a marker at its end, and white space behind it, must lie


@dataclass(frozen=True, slots=True)
class Think:
    """`always`: what an answer begins with is reasoning, whether or not the prompt or the model says so."""

    open: str
    close: str
    always: bool = False

    @property
    def markers(self) -> tuple[str, str]:
        return self.open, self.close

    def opened(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
        """Whether the prompt ends in the beginning of reasoning, as templates of models that always think have it.

        Only its very end counts: what stands before may be text of the request.
        """
        return self.begun(tokenizer, prompt) == "open"

    def begun(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> Begun:
        """What the prompt's end has of it: "ended" where the template leaves it out, by opening and closing it."""
        end = tokenizer.decode(prompt[-TAIL:], skip_special_tokens=False).rstrip()
        if end.endswith(self.close):
            return "ended"
        return "open" if self.always or end.endswith(self.open) else "not yet"


def switched_off(variables: Mapping[str, Any]) -> bool:
    """Whether a template's variables say so, by the names that they commonly have."""
    return any(variables.get(name) is False for name in ("enable_thinking", "thinking"))


ANGLE = Think("<think>", "</think>")
SQUARE = Think("[THINK]", "[/THINK]")
IMPLIED = Think("<think>", "</think>", always=True)
