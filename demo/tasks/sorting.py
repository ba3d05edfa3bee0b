"""Short lists put in order: numbers up or down, words by the alphabet."""

from __future__ import annotations

import random

from .base import Conversation, Reply, Turn
from .contents import Words
from .phrasing import Phrasing, pick
from .split import held, same

LEAST = 3  # letters of words that begin alike

UP = Phrasing(
    training=(
        "Sort {list}.",
        "Sort [these numbers|the numbers|this list|the following numbers|the list]: {list}",
        "Sort the numbers {list}.",
        "Sort {list} [in ascending order|from smallest to largest|ascending|in increasing order].",
        "Order {list} [from smallest to largest|from small to large|from low to high].",
        "Put {list} in [order|ascending order|increasing order].",
        "Put these numbers in [order|ascending order]: {list}",
        "Arrange {list} [in order|in ascending order|from smallest to largest].",
        "What is {list} [sorted|in order|in ascending order]?",
        "{list} [sorted|in order|in ascending order|from smallest to largest][|?]",
        "What is the order of {list} from smallest to largest?",
        "List {list} [in ascending order|from smallest to largest|from the smallest to the largest].",
        "Which order do {list} have from small to large?",
        "Order [the|these] numbers [|from low to high]: {list}",
        "Give me {list} [sorted|in ascending order|from smallest to largest].",
        "Rank {list} from [lowest to highest|smallest to largest].",
        "Write {list} in [ascending|increasing] order.",
        "[Sort|Order|List] {list} with the smallest first.",
        "[Order|List|Arrange|Put] {list}, [the smallest|smallest] first.",
        "{list}, the smallest first",
        "How do I put {list} in order?",
        "Sort [these|the] numbers [in ascending order|from smallest to largest]: {list}",
        "Sort the numbers {list} from smallest to largest.",
        "[Put|List] these numbers from smallest to largest: {list}",
        "Arrange these in order from smallest to largest: {list}",
        "Arrange the numbers {list} [from small to large|in ascending order].",
    ),
    held_out=(
        "Arrange [these|the following] numbers from smallest to largest: {list}",
        "Give me these numbers [sorted|in order]: {list}",
        "Put the numbers {list} in increasing order.",
        "How do you sort {list}?",
    ),
)
DOWN = Phrasing(
    training=(
        "Sort {list} [in descending order|from largest to smallest|descending|in decreasing order].",
        "Sort [these|the] numbers [in descending order|from largest to smallest]: {list}",
        "Sort this list in descending order: {list}",
        "Order {list} [from largest to smallest|from large to small|from high to low].",
        "Put {list} in [descending order|decreasing order|reverse order].",
        "Put these numbers in descending order: {list}",
        "Arrange {list} [in descending order|from largest to smallest].",
        "What is {list} in [descending|decreasing] order?",
        "{list} [in descending order|from largest to smallest][|?]",
        "What is the order of {list} from largest to smallest?",
        "List {list} [in descending order|from largest to smallest|from the largest to the smallest].",
        "Order [the|these] numbers from high to low: {list}",
        "Give me {list} [in descending order|from largest to smallest].",
        "Rank {list} from [highest to lowest|largest to smallest].",
        "Write {list} in [descending|decreasing] order.",
        "Sort {list} with the largest first.",
        "Order {list} with the largest first.",
        "[Order|List|Arrange|Put] {list}, [the largest|largest] first.",
        "{list}, the largest first",
        "Write {list} from [largest to smallest|high to low].",
        "Put the numbers {list} in descending order.",
        "Sort the numbers {list} from largest to smallest.",
        "[Put|List] these numbers from largest to smallest: {list}",
        "Arrange these in order from largest to smallest: {list}",
        "Arrange the numbers {list} [from large to small|in descending order].",
    ),
    held_out=(
        "Arrange [these|the following] numbers from largest to smallest: {list}",
        "Put the numbers {list} in decreasing order.",
        "Give me these numbers in descending order: {list}",
        "Write {list} with the largest first.",
    ),
)
ALPHABET = Phrasing(
    training=(
        "Sort {list} [alphabetically|by the alphabet|in alphabetical order|from a to z].",
        "Sort [these|the|the following] words [|alphabetically]: {list}",
        "Sort the words {list}.",
        "Order {list} [alphabetically|by the alphabet].",
        "Put {list} in [alphabetical order|order of the alphabet].",
        "Put [these|the following] words in [order|alphabetical order]: {list}",
        "Arrange {list} [alphabetically|in alphabetical order].",
        "Alphabetize {list}.",
        "Alphabetize [these words|this list|the words]: {list}",
        "What is {list} in alphabetical order?",
        "{list} [in alphabetical order|alphabetically|from a to z][|?]",
        "What is the alphabetical order of {list}?",
        "List {list} [alphabetically|in alphabetical order].",
        "Order these words [alphabetically|from a to z]: {list}",
        "Give me {list} [alphabetically|in alphabetical order].",
        "Write {list} in alphabetical order.",
    ),
    held_out=(
        "Arrange [these|the following] words alphabetically: {list}",
        "Give me these words in [order|alphabetical order]: {list}",
        "Put the words {list} in order of the alphabet.",
        "How do you sort {list} alphabetically?",
    ),
)


class Sorting:
    """`3, 17, 42`"""

    name = "sorting"
    phrasings = (UP, DOWN, ALPHABET)
    says = ("and smallest first largest first I go through the list letters again. So",)

    def __init__(self, contents: Words) -> None:
        self._contents = contents

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        sort = rng.random()
        words = sort < (0.3 if held_out else 0.45)
        draw = self._words if words else self._numbers
        items = draw(rng, held_out)
        while held(" ".join(sorted(items))) != held_out:
            items = draw(rng, held_out)
        if words:
            phrasing, done, steps = ALPHABET, sorted(items, key=str.lower), _beginnings(items)
        else:
            down = sort >= 0.7
            phrasing, done, steps = DOWN if down else UP, sorted(items, key=int, reverse=down), _insertions(items, down)
        text = phrasing.draw(rng, held_out, list=_listed(rng, items))
        thoughts = {"medium": steps, "high": f"I go through the list, {steps}."}
        reply = Reply(", ".join(done), thoughts, aloud=True)
        return Conversation(self.name, (Turn(text, reply),))

    def right(self, turn: Turn, said: str) -> bool:
        """The same items in the same order, whatever stands between them."""
        return same(turn.reply.text.replace(",", ""), said.replace(" and ", " ").replace(",", " "))

    def _numbers(self, rng: random.Random, held_out: bool) -> list[str]:
        """3 to 5 numbers. Training draws more of those that begin alike, and of unlike lengths: they go wrong first."""
        top = 100 if rng.random() < 0.7 else 1000
        numbers: list[str] = []
        for _ in range(3 + int(rng.random() * 3)):
            hard = 1.0 if held_out else rng.random()
            if numbers and hard < 0.3:
                numbers.append(f"{pick(rng, numbers)[:-1]}{int(rng.random() * 10)}")
            else:
                numbers.append(str(int(rng.random() * (top / 10 if hard < 0.4 else top))))
        return numbers

    def _words(self, rng: random.Random, held_out: bool) -> list[str]:
        """3 or 4 different words; in some draws several begin with the same letter, in training more often."""
        alike = rng.random() < (0.15 if held_out else 0.35)
        wanted = 3 + int(rng.random() * 2)
        words: list[str] = []
        while len(words) < wanted:
            if held_out:
                word = self._contents.draw(rng, True)
            else:
                word = self._training_word(rng, words, alike)
            initials = [other[0] for other in words]
            if word in (*words, "and") or len(word) < 2 or (word[0] in initials and not alike):
                continue
            if alike and len(words) == wanted - 1 and word[0] not in initials and rng.random() < 0.9:
                continue
            words.append(word)
        return [word.capitalize() for word in words] if rng.random() < 0.1 else words

    def _training_word(self, rng: random.Random, words: list[str], alike: bool) -> str:
        """Often one that shares letters with one of `words`, which is easily mistaken for it; else any.

        All first letters come often.
        """
        sort = rng.random()
        if words and sort < 0.2:
            other = pick(rng, words)
            return self._contents.near(rng, other, 3) if alike else self._contents.sharing(rng, other)
        word = self._contents.crossed(rng) if sort < 0.7 else self._contents.draw(rng, False)
        return self._contents.near(rng, word, 1) if 0.6 < sort < 0.8 else word


def _insertions(items: list[str], down: bool) -> str:
    """`smallest first: 56; 17: 17 56; 08: 08 17 56`: one more number at its place each time, all of equal length."""
    items = [item.zfill(max(map(len, items))) for item in items]
    sorts = [" ".join(sorted(items[:count], reverse=down)) for count in range(1, len(items) + 1)]
    steps = [sorts[0], *(f"{item}: {done}" for item, done in zip(items[1:], sorts[1:], strict=True))]
    return f"{'largest' if down else 'smallest'} first: {'; '.join(steps)}"


def _beginnings(items: list[str]) -> str:
    """`letters b, h, b: b, again, h; b u t, b a k: b a k, b u t`.

    The first letters, then those in order, with a word for one that came before; behind it more letters of the words
    that begin alike, as many as tell them apart and three at least, and those in order.
    """
    words = [item.lower() for item in items]
    firsts = [word[0] for word in words]
    ordered = sorted(firsts)
    said = ["again" if at and ordered[at - 1] == first else first for at, first in enumerate(ordered)]
    steps = [f"letters {', '.join(firsts)}: {', '.join(said)}"]
    if alike := [word for word in words if firsts.count(word[0]) > 1]:
        enough = next(n for n in range(LEAST, 100) if len({word[:n] for word in alike}) == len(alike))
        begins = [" ".join(word[:enough]) for word in alike]
        steps.append(f"{', '.join(begins)}: {', '.join(' '.join(word[:enough]) for word in sorted(alike))}")
    return "; ".join(steps)


def _listed(rng: random.Random, items: list[str]) -> str:
    """Items as people write them: mostly with commas."""
    style = rng.random()
    if style < 0.6:
        return ", ".join(items)
    if style < 0.8:
        return f"{', '.join(items[:-1])} and {items[-1]}"
    if style < 0.94:
        return (" " if style < 0.88 else ",").join(items)
    return f"[{', '.join(items)}]"
