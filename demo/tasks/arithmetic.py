"""Sums and differences of two numbers of up to three digits, with the working of the written method."""

from __future__ import annotations

import random

from .base import Conversation, Reply, Turn
from .phrasing import Phrasing, pick
from .split import held

PLACES = ("Ones", "Tens", "Hundreds")

SUMS = Phrasing(
    training=(
        "What is {a} [+|plus] {b}?",
        "[What's|Whats] {a} [+|plus] {b}?",
        "[What is|What's|Calculate|Compute|Solve] {a}+{b}",
        "How much is {a} [+|plus|and] {b}?",
        "{a} + {b}",
        "{a}+{b}",
        "{a} + {b} [=|= ?]",
        "{a}+{b}[=|=?]",
        "{a} plus {b}[|?| is| is?]",
        "Add {a} [to|and] {b}.",
        "What is the sum of {a} and {b}?",
        "The sum of {a} and {b}[|?]",
        "Compute {a} [+|plus] {b}.",
        "Calculate {a} [+|plus] {b}.",
        "Work out {a} [+|plus] {b}.",
        "What do you get [if|when] you add {a} [to|and] {b}?",
        "What does {a} [+|plus] {b} make?",
        "[Find|Give me] the sum of {a} and {b}.",
        "Tell me what {a} [+|plus] {b} is.",
        "[I have|You have] {a} and [I|you] get {b} more. How many [is that|do I have|do you have] now?",
        "Solve {a} [+|plus] {b}.",
        "How many are {a} and {b} [|together]?",
        "What is {a} added to {b}?",
        "Increase {a} by {b}.",
        "{b} more than {a}[|?]",
        "How much is {b} more than {a}?",
        "Which number is {b} more than {a}?",
        "What number is {b} more than {a}?",
        "Tell me what {b} more than {a} is.",
        "What is {a} and {b} more?",
        "What is {a} increased by {b}?",
        "What is the total of {a} and {b}?",
        "{b} more than {a} is?",
        "And {b} more than {a}?",
        "What number do I get with {b} more than {a}?",
        "What would {b} more than {a} be?",
        "Do you know what {b} more than {a} is?",
        "How many is {b} more than {a}?",
        "What does {a} [+|plus] {b} come to?",
        "What does {a} and {b} make?",
        "{a} [+|plus] {b} is equal to[|?]",
    ),
    held_out=(
        "What does {a} [+|plus] {b} equal?",
        "How much do you get [if|when] you add {a} [to|and] {b}?",
        "[Find|Give me] the total of {a} and {b}.",
        "Calculate the sum of {a} and {b}.",
        "What is {b} more than {a}?",
        "What are {a} and {b} together?",
    ),
)
DIFFERENCES = Phrasing(
    training=(
        "What is {a} [-|minus] {b}?",
        "[What's|Whats] {a} [-|minus] {b}?",
        "[What is|What's|Calculate|Compute|Solve] {a}-{b}",
        "How much is {a} [-|minus] {b}?",
        "{a} - {b}",
        "{a}-{b}",
        "{a} - {b} [=|= ?]",
        "{a}-{b}[=|=?]",
        "{a} minus {b}[|?| is| is?]",
        "Subtract {b} from {a}.",
        "Take {b} away from {a}.",
        "Take {b} from {a}.",
        "What do you get [if|when] you subtract {b} from {a}?",
        "What do you get [if|when] you take {b} away from {a}?",
        "Compute {a} [-|minus] {b}.",
        "Calculate {a} [-|minus] {b}.",
        "Work out {a} [-|minus] {b}.",
        "What does {a} [-|minus] {b} equal?",
        "Tell me what {a} [-|minus] {b} is.",
        "Solve {a} [-|minus] {b}.",
        "Decrease {a} by {b}.",
        "How much is {a} less {b}?",
        "What is {b} less than {a}?",
        "How much is {a} when {b} is taken away?",
        "What is {a} [when|if] {b} is subtracted?",
        "What remains of {a} [when|if] you take {b} away?",
        "Tell me {a} [-|minus] {b}.",
        "Give me {b} less than {a}.",
        "What do I get [when|if] I take {b} from {a}?",
        "Which number do you get [when|if] {b} is subtracted from {a}?",
        "{a} less {b}",
        "[Find|Compute] {b} subtracted from {a}.",
    ),
    held_out=(
        "What does {a} [-|minus] {b} make?",
        "What is {b} subtracted from {a}?",
        "How much do you get [if|when] you take {b} from {a}?",
        "What is {a} [when|if] you take away {b}?",
        "Give me {a} [-|minus] {b}.",
    ),
)
# Asked so that the larger number comes first: nobody means a negative one here.
GAPS = Phrasing(
    training=(
        "What is the difference [between|of] {a} and {b}?",
        "[Find|Compute|Give me] the difference between {a} and {b}.",
        "The difference [between|of] {a} and {b}[|?]",
        "How much more is {a} than {b}?",
        "How much bigger is {a} than {b}?",
        "By how much is {a} larger than {b}?",
        "By how much is {b} smaller than {a}?",
        "How much smaller is {b} than {a}?",
        "Tell me how much larger {a} is than {b}.",
        "[I have|You have] {a} and [I|you] give away {b}. How many are left?",
        "How much is left of {a} [if|when] {b} is subtracted?",
        "How many are left [if|when] I take {b} from {a}?",
    ),
    held_out=(
        "Calculate the difference [between|of] {a} and {b}.",
        "How much larger is {a} than {b}?",
        "What is left of {a} [if|when] you take away {b}?",
    ),
)
NUMBER_WORDS = (
    "Ones: Tens: Hundreds: write 1, carry 1. borrow 1. so the answer is negative. Then",
    "how much larger is subtracted more than to. I add compare and. So",
)


def operands(rng: random.Random, sign: str, held_out: bool) -> tuple[int, int]:
    """Two numbers of 0..999, half of the time with at least one of three digits; `sign` is part of what is split."""
    while True:
        if rng.random() < 0.5:
            a = 100 + int(rng.random() * 900)
            b = int(rng.random() * pick(rng, (1000, 1000, 1000, 100, 10)))
        else:
            a, b = int(rng.random() * 100), int(rng.random() * pick(rng, (100, 100, 10)))
        if rng.random() < 0.5:
            a, b = b, a
        if held(f"{min(a, b)}{sign}{max(a, b)}") == held_out:
            return a, b


class Sums:
    """`347 + 85 = 432`"""

    name = "sums"
    phrasings = (SUMS,)
    says = NUMBER_WORDS

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        a, b = operands(rng, "+", held_out)
        text = SUMS.draw(rng, held_out, a=a, b=b)
        return Conversation(self.name, (Turn(text, answer(a, "+", b)),))

    def right(self, turn: Turn, said: str) -> bool:
        return right(turn, said)


class Differences:
    """`85 - 347 = -262`"""

    name = "differences"
    phrasings = (DIFFERENCES, GAPS)
    says = NUMBER_WORDS

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        a, b = operands(rng, "-", held_out)
        gap = rng.random() < 0.2
        while gap and a < b:
            a, b = operands(rng, "-", held_out)
        text = (GAPS if gap else DIFFERENCES).draw(rng, held_out, a=a, b=b)
        return Conversation(self.name, (Turn(text, answer(a, "-", b)),))

    def right(self, turn: Turn, said: str) -> bool:
        return right(turn, said)


def answer(a: int, sign: str, b: int) -> Reply:
    """What is said to `a` plus or minus `b`."""
    result = a + b if sign == "+" else a - b
    working = _adding if sign == "+" else _subtracting
    thoughts = {"medium": working(a, b, False), "high": working(a, b, True)}
    return Reply(f"{a} {sign} {b} = {result}", thoughts, aloud=True)


def right(turn: Turn, said: str) -> bool:
    """The right result, alone or after the right question."""
    question, _, result = turn.reply.text.partition(" = ")
    asked, equals, given = said.strip().rstrip(".").rpartition("=")
    return given.strip() == result and (not equals or asked.replace(" ", "") == question.replace(" ", ""))


def _aligned(a: int, b: int) -> tuple[str, str]:
    """Both as they stand below each other: as many digits as the longer one has."""
    long = max(len(str(a)), len(str(b)))
    return str(a).zfill(long), str(b).zfill(long)


def _columns(a: str, b: str) -> list[tuple[str, int, int]]:
    """(place, digit of a, digit of b) from the ones up, of two numbers of one length."""
    return [(place, int(x), int(y)) for place, x, y in zip(PLACES, a[::-1], b[::-1], strict=False)]


def _adding(a: int, b: int, sentences: bool) -> str:
    """`347+085: 7+5=12 4+8+1=13 3+0+1=4`, or the same in sentences."""
    above, below = _aligned(a, b)
    steps, carry = [f"I add {above} and {below}." if sentences else f"{above}+{below}:"], 0
    columns = _columns(above, below)
    for at, (place, x, y) in enumerate(columns):
        total = x + y + carry
        terms = [str(x), str(y)] + ["1"] * carry
        carry = total // 10
        if sentences:
            write = f", write {total - 10}, carry 1" if carry and at + 1 < len(columns) else ""
            steps.append(f"{place}: {' + '.join(terms)} = {total}{write}.")
        else:
            steps.append(f"{'+'.join(terms)}={total}")
    return " ".join(steps)


def _subtracting(a: int, b: int, sentences: bool) -> str:
    """`347-085 3>0 347-085: 7-5=2 4-8+10=6 3-0-1=2`: which is larger, then the smaller from it; or in sentences."""
    first, second = _aligned(a, b)
    compared = _compared(first, second)
    large, small = max(first, second), min(first, second)
    if sentences:
        signs = ", ".join(f"{x} {sign} {y}" for x, sign, y in compared)
        negative = ", so the answer is negative" if a < b else ""
        steps = [f"I compare {first} and {second}: {signs}{negative}. Then {large} - {small}."]
    else:
        steps = [f"{first}-{second} {' '.join(map(''.join, compared))} {large}-{small}:"]
    borrowed = 0
    for place, x, y in _columns(large, small):
        terms = f"{x} - {y}{' - 1' * borrowed}"
        rest = x - y - borrowed
        borrowed = int(rest < 0)
        if borrowed:
            terms, rest = f"{terms} + 10", rest + 10
        if sentences:
            steps.append(f"{place}: {terms} = {rest}{', borrow 1' * borrowed}.")
        else:
            steps.append(f"{terms.replace(' ', '')}={rest}")
    return " ".join(steps)


def _compared(a: str, b: str) -> list[tuple[str, str, str]]:
    """`3=3`, `5<9`: the digits of two numbers of one length from the left, as far as it takes to tell them apart."""
    found = []
    for x, y in zip(a, b, strict=True):
        found.append((x, "<" if x < y else ">" if x > y else "=", y))
        if x != y:
            break
    return found
