"""What may follow `<|start|>assistant` as a grammar, headers included, so that none of them can be malformed."""

from __future__ import annotations

from collections.abc import Sequence

from ..formats.rules import TEXT, Offered, any_of, quoted


class HarmonySpeech:
    """A `Speech` (constraint.py): reasoning and preambles, then the answer or one call.

    It is never more than one: `<|call|>` ends what the model has to say, and the result of the call comes next.
    Preambles are part of what the user is shown, so there is none before an answer of a given form.
    """

    name = "harmony"

    def grammar(self, answer: str | None, calls: Sequence[Offered], must_call: bool, several: bool) -> str:
        """See `Speech`."""
        rules = [
            'thought: <|channel|> "analysis" said',
            'preamble: <|channel|> "commentary" said',
            'said: <|message|> text <|end|> <|start|> "assistant"',
            f"text: {TEXT}",
        ]
        ways = []
        if not must_call:
            rules.append(f'answer: <|channel|> "final" <|message|> {answer or "text"}')
            ways.append(f"{'(thought | preamble)*' if answer is None else 'thought*'} answer")
        for place, call in enumerate(calls):
            header = f'<|channel|> {quoted(f"commentary to=functions.{call.name} ")} <|constrain|> "json" <|message|>'
            rules.append(f"call{place}: {header} {call.arguments} <|call|>")
        if calls:
            ways.append(f"(thought | preamble)* {any_of(f'call{place}' for place in range(len(calls)))}")
        return "\n".join([f"start: {' | '.join(ways)}", *rules])
