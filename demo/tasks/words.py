"""Reversing, upper-casing and spelling out one word."""

from __future__ import annotations

import random
from collections.abc import Callable

from .base import Conversation, Reply, Turn
from .contents import Words
from .phrasing import Phrasing

REVERSE = Phrasing(
    training=(
        "Reverse {w}.",
        "Reverse the word {w}.",
        "Reverse [this word|the following word|the string|this]: {w}",
        "Reverse the letters of [|the word] {w}.",
        "Write {w} backwards.",
        "Write the word {w} backwards.",
        "Spell {w} backwards.",
        "Say {w} backwards.",
        "What is {w} [backwards|in reverse|reversed]?",
        "What is the word {w} [backwards|in reverse|reversed]?",
        "What is the reverse of [|the word] {w}?",
        "{w} backwards[|?]",
        "{w} [in reverse|reversed][|?]",
        "How do you [write|spell] {w} backwards?",
        "Turn [|the word] {w} around.",
        "Give me {w} [backwards|in reverse].",
        "What do you get [if|when] you reverse {w}?",
        "Read {w} from the end to the start.",
        "How is {w} written backwards?",
        "Write the letters of {w} in reverse [|order].",
        "Give me the letters of {w} from last to first.",
        "Flip [|the word] {w}.",
        "What does {w} look like backwards?",
        "Make {w} run backwards.",
        "Turn {w} so that the last letter is the first.",
        "Reverse all of {w} for me.",
    ),
    held_out=(
        "Give me the reverse of [|the word] {w}.",
        "What is {w} written backwards?",
        "Write [|the word] {w} in reverse.",
        "Turn the letters of {w} around.",
        "How does {w} look reversed?",
    ),
)
UPPER = Phrasing(
    training=(
        "Write {w} in [upper case|uppercase|capitals|capital letters|all caps].",
        "Write the word {w} in [upper case|uppercase|capitals|capital letters|all caps].",
        "Put {w} in [upper case|uppercase|capitals|capital letters].",
        "Convert {w} to [upper case|uppercase|capitals|capital letters].",
        "Change {w} to [upper case|uppercase|capitals].",
        "Capitalize every letter of {w}.",
        "Capitalize all [|the] letters [of|in] {w}.",
        "What is {w} in [upper case|uppercase|capitals|capital letters|all caps]?",
        "{w} in [upper case|uppercase|capitals|capital letters|all caps][|?]",
        "Make {w} [upper case|uppercase|all caps].",
        "Make the word {w} [upper case|uppercase|all caps].",
        "Turn {w} into [upper case|uppercase|capitals|capital letters].",
        "Uppercase [|the word] {w}.",
        "Uppercase [this word|the following word|this]: {w}",
        "How do you write {w} in [capitals|capital letters|upper case]?",
        "Give me {w} in [upper case|uppercase|capitals|capital letters].",
        "Type {w} with [capital letters|all caps|caps lock on].",
        "Spell {w} with big letters.",
        "What does {w} look like in [capitals|capital letters|upper case]?",
        "Make {w} a word of capital letters.",
        "Make all letters of {w} capital [|letters].",
        "Turn every letter of {w} into a capital [|letter].",
        "Give every letter of {w} a capital form.",
        "Change the letters of {w} to [capitals|capital letters].",
        "I want {w} as a word in capitals!",
        "Write {w} with a capital for every letter.",
        "Put all of {w} in capitals.",
    ),
    held_out=(
        "Convert the word {w} into [upper case|uppercase|capital letters].",
        "Write {w} with [all letters capital|big letters].",
        "Make every letter of {w} a capital letter.",
        "Show me {w} in [capitals|upper case|all caps].",
        "How does {w} look in [capitals|upper case]?",
    ),
)
SPELL = Phrasing(
    training=(
        "Spell {w}.",
        "Spell the word {w}.",
        "Spell out {w}.",
        "Spell out the word {w}.",
        "Spell {w} [|out] letter by letter.",
        "How do you spell {w}?",
        "How do you spell the word {w}?",
        "How is {w} spelled?",
        "How is the word {w} spelled?",
        "What is the spelling of {w}?",
        "Spelling of {w}[|?]",
        "Spell [this word|the following word|this]: {w}",
        "What are the letters of {w}?",
        "Which letters [are in|make] the word {w}?",
        "Give me the letters of {w}.",
        "Give me the spelling of {w}.",
        "List the letters [of|in] {w}.",
        "Write {w} letter by letter.",
        "Write the word {w} with hyphens between the letters.",
        "Say {w} letter by letter.",
        "Show me how to spell {w}.",
        "Break {w} into letters.",
        "Write {w}, one letter at a time.",
        "[Write|Say|Give me] {w} one letter at a time.",
        "{w} one letter at a time[|?]",
        "How is {w} spelled one letter at a time?",
        "Can {w} be spelled out?",
        "Give {w} a hyphen between the letters.",
        "Take {w} apart into its letters.",
        "Spell {w} as its letters.",
    ),
    held_out=(
        "How would you spell {w}?",
        "List the letters that make [|the word] {w}.",
        "Tell me the spelling of {w}.",
        "Spell {w} one letter at a time.",
        "Say the letters of {w}.",
    ),
)


class Letters:
    """One thing done to the letters of a word."""

    says = ("backwards in capitals",)

    def __init__(
        self,
        name: str,
        phrasing: Phrasing,
        contents: Words,
        result: Callable[[str], str],
        working: Callable[[str], str],
    ) -> None:
        """`result` of a word is the answer, `working` the thoughts of high effort."""
        self.name = name
        self.phrasings = (phrasing,)
        self._contents, self._result, self._working = contents, result, working

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        word = self._contents.draw(rng, held_out)
        if rng.random() < 0.15:
            word = word.capitalize()
        marks = rng.random()
        if marks < 0.55 and word.lower() not in _SMALL:
            shown = word
        else:
            shown = f'"{word}"' if marks < 0.85 else f"'{word}'"
        text = self.phrasings[0].draw(rng, held_out, w=shown)
        return Conversation(self.name, (Turn(text, Reply(self._result(word), {"high": self._working(word)})),))

    def right(self, turn: Turn, said: str) -> bool:
        """The result itself, case and all; quotes and a full stop are let pass."""
        return said.strip().rstrip(".").strip("\"'") == turn.reply.text


def kinds(contents: Words) -> tuple[Letters, Letters, Letters]:
    """Reversing, upper-casing and spelling."""
    return (
        Letters(
            "reverse", REVERSE, contents, lambda w: w[::-1], lambda w: f"{' '.join(w)}, backwards {' '.join(w[::-1])}"
        ),
        Letters("upper", UPPER, contents, str.upper, lambda w: f"{' '.join(w)}, in capitals {' '.join(w.upper())}"),
        Letters("spell", SPELL, contents, "-".join, " ".join),
    )


# Bare, these could be taken for a part of the question.
_SMALL = REVERSE.words() | UPPER.words() | SPELL.words()
