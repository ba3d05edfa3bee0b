"""Remembering a name or a number, with other questions in between, and saying so if it was never told."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

from .base import Conversation, Kind, Reply, Turn
from .contents import GOODS, PEOPLE
from .phrasing import Phrasing, pick
from .split import same

FILLERS = 6

TELL_NAME = Phrasing(
    training=(
        "My name is {x}.", "My name's {x}.", "I am {x}.", "I'm {x}.", "Call me {x}.", "You can call me {x}.",
        "Hello, I am {x}.", "Hi, my name is {x}.", "Hi, I'm {x}.", "Hello! My name is {x}.",
        "My name is {x}, [remember it|remember that].", "Remember [that|] my name is {x}.", "People call me {x}.",
        "The name is {x}.", "I am called {x}.", "Please call me {x}.", "May I tell you my name? It is {x}.",
        "Remember my name: {x}", "My friends call me {x}.", "This is {x}.", "Just so you know, my name is {x}.",
        "{x} is my name.",
    ),
    held_out=(
        "Hi, I am {x}.", "You may call me {x}.", "Hello, my name is {x}, nice to meet you.", "I have a name: {x}",
        "Please remember that I am called {x}.",
    ),
    dressed=False,
)  # fmt: skip
ASK_NAME = Phrasing(
    training=(
        "What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "Do you know my name?",
        "Tell me my name.", "What am I called?", "Say my name.", "What did I say my name was?",
        "What is the name I gave you?", "Which name did I tell you?", "What name did I give [you|]?",
        "Can you remember my name?", "What is the name I told you?", "Repeat my name.", "My name is?",
        "How am I called?", "Do you still know my name?", "Remind me of my name.", "Give me my name.",
    ),
    held_out=(
        "Do you still remember my name?", "What was my name?", "Do you know who I am?", "Repeat the name I gave you.",
        "What did I tell you my name is?",
    ),
)  # fmt: skip
TELL_NUMBER = Phrasing(
    training=(
        "My {key} is {n}.", "My {key} is {n}, [remember it|remember that|do not forget it].",
        "Remember [that|] my {key} is {n}.", "Remember my {key}: {n}", "Remember this: my {key} is {n}.",
        "Please remember that my {key} is {n}.", "Note that my {key} is {n}.", "{n} is my {key}.",
        "I tell you my {key}: {n}", "Keep in mind that my {key} is {n}.", "Do not forget [that|] my {key} is {n}.",
        "Don't forget my {key}: {n}", "My {key}: {n}", "Just so you know, my {key} is {n}.", "I have {n} as my {key}.",
        "You should know that my {key} is {n}.", "The number {n} is my {key}.", "By the way, my {key} is {n}.",
    ),
    held_out=(
        "Please keep in mind that my {key} is {n}.", "Remember the number {n}, it is my {key}.",
        "Just remember my {key}: {n}", "I tell you that my {key} is {n}.",
    ),
    dressed=False,
)  # fmt: skip
ASK_NUMBER = Phrasing(
    training=(
        "What is my {key}?", "What's my {key}?", "Do you remember my {key}?", "Do you know my {key}?",
        "Tell me my {key}.", "What did I say my {key} was?", "Which number is my {key}?", "Can you remember my {key}?",
        "Repeat my {key}.", "My {key} is?", "Remind me of my {key}.", "What {key} did I tell you?",
        "What {key} do I have?", "Give me my {key}.", "Do you still know my {key}?", "Which {key} did I give you?",
        "Say my {key}.",
    ),
    held_out=(
        "What was my {key}?", "Do you still remember my {key}?", "What {key} did I give you?",
        "Which number did I say my {key} was?",
    ),
)  # fmt: skip
TELL_COUNT = Phrasing(
    training=(
        "I have {n} {things}.", "I own {n} {things}.", "I have got {n} {things}.",
        "There are {n} {things} in my house.", "Remember [that|] I have {n} {things}.", "My family has {n} {things}.",
        "I bought {n} {things}.", "I keep {n} {things}.", "Just so you know, I have {n} {things}.",
        "By the way, I have {n} {things}.", "{n} {things} belong to me.", "At home I have {n} {things}.",
        "I see {n} {things} here.", "We have {n} {things}.",
    ),
    held_out=("At home there are {n} {things}.", "Remember that I own {n} {things}.", "I just bought {n} {things}."),
    dressed=False,
)  # fmt: skip
ASK_COUNT = Phrasing(
    training=(
        "How many {things} do I have?", "How many {things} have I got?", "How many {things} are there?",
        "How many {things} do I own?", "Do you remember how many {things} I have?", "Tell me how many {things} I have.",
        "What is the number of my {things}?", "Do you know how many {things} I have?",
        "How many {things} did I say I have?", "Remind me how many {things} I have.",
        "How many {things} did I tell you about?", "Say how many {things} I have.", "How many {things} were there?",
        "So how many {things}?", "How many {things} were mine?", "What number of {things} was it?",
        "Was it many {things}, and how many?", "{things}: how many was that?", "Tell me the number of {things} again.",
    ),
    held_out=(
        "How many {things} was it?", "Do you still know how many {things} I have?",
        "How many {things} did I tell you I have?",
    ),
)  # fmt: skip
TELL_PLAIN = Phrasing(
    training=(
        "Remember the number {n}.", "Remember {n}.", "Keep the number {n} in mind.", "Do not forget the number {n}.",
        "Please remember the number {n}.", "Remember this number: {n}", "Can you remember the number {n}?",
        "The number is {n}.", "I will ask you later: the number is {n}.", "Keep {n} in mind.", "Note the number {n}.",
    ),
    held_out=("Keep this number in mind: {n}", "Please do not forget {n}.", "Please note the number {n}."),
    dressed=False,
)  # fmt: skip
ASK_PLAIN = Phrasing(
    training=(
        "What was the number?", "Which number did I tell you?", "What number did I tell you?", "What is the number?",
        "Do you remember the number?", "Tell me the number.", "What number should you remember?", "Repeat the number.",
        "Which number did I say?", "What number did you remember?", "Say the number again.", "Do you know the number?",
        "Give me the number again.", "Give me the number.", "Repeat the number that I told you.",
        "Which was the number?", "Was it a large number, and which?", "The number I told you was?",
    ),
    held_out=(
        "Which number was it?", "Do you still know the number?", "What number did I say?",
        "Give me the number I told you.",
    ),
)  # fmt: skip
BOTH = Phrasing(
    training=(
        "My name is {x} and my {key} is {n}.", "I am {x} and my {key} is {n}.", "I'm {x}, my {key} is {n}.",
        "Call me {x}. My {key} is {n}.", "Remember that my name is {x} and my {key} is {n}.",
        "Hello, I am {x}. My {key} is {n}.", "My {key} is {n} and my name is {x}.", "My name is {x}. My {key} is {n}.",
        "Name: {x}, {key}: {n}",
    ),
    held_out=("You can call me {x} and my {key} is {n}.", "Hi, I'm {x}. My {key} is {n}."),
    dressed=False,
)  # fmt: skip
KEYS = (
    "lucky number", "favorite number", "number", "code", "secret code", "secret number", "room number", "house number",
    "age", "ticket number", "seat", "password", "locker number", "phone number", "bus number", "score", "order number",
    "table number", "door code", "pin", "customer number", "flight number", "weight", "height", "shoe size",
)  # fmt: skip


class Memory:
    """A fact, other questions, then what the fact was."""

    name = "memory"
    phrasings = (TELL_NAME, ASK_NAME, TELL_NUMBER, ASK_NUMBER, TELL_COUNT, ASK_COUNT, TELL_PLAIN, ASK_PLAIN, BOTH)
    says = (
        "Nice to meet you. I will remember it. Your name is. You have not told me your name.",
        "how many you have",
        " ".join(KEYS),
    )

    def __init__(self, fillers: Sequence[tuple[Kind, float]]) -> None:
        """`fillers`: what is asked in between, with weights."""
        self._kinds = [kind for kind, _ in fillers]
        self._weights = list(itertools.accumulate(weight for _, weight in fillers))

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        facts: list[Fact] = [_Name(rng, held_out), pick(rng, NUMBERS)(rng, held_out)]
        if rng.random() < 0.5:
            facts.reverse()
        if rng.random() < 0.06:
            return Conversation(self.name, (_at_once(rng, held_out, facts[0]),))
        told, turns = self._told(rng, held_out, facts)
        turns += self._fillers(rng, held_out, int(rng.random() * (FILLERS + 1)))
        asked = told if told and rng.random() < 0.9 else [fact for fact in facts if fact not in told] or told
        fact = pick(rng, asked)
        turns.append(Turn(fact.ask(rng, held_out), fact.answer(fact in told)))
        if rng.random() < 0.25:
            turns += self._fillers(rng, held_out, int(rng.random() * 2))
            other = facts[1 - facts.index(fact)]
            turns.append(Turn(other.ask(rng, held_out), other.answer(other in told)))
        return Conversation(self.name, tuple(turns))

    def right(self, turn: Turn, said: str) -> bool:
        """The sentence taught, or what was asked for alone."""
        text = turn.reply.text
        known = not text.startswith("You have not")
        return same(text, said) or (known and same(text.split(" is ")[-1] if " is " in text else text.split()[2], said))

    def _told(self, rng: random.Random, held_out: bool, facts: list[Fact]) -> tuple[list[Fact], list[Turn]]:
        """Which of the two facts are told, and the turns that tell them."""
        draw = rng.random()
        if draw < 0.04:
            return [], []
        if draw < 0.6:
            return facts[:1], [Turn(facts[0].tell(rng, held_out), Reply(facts[0].heard), graded=False)]
        name, number = sorted(facts, key=lambda fact: not isinstance(fact, _Name))
        if draw < 0.75 and isinstance(name, _Name) and isinstance(number, _Number):
            text = BOTH.draw(rng, held_out, x=name.x, key=number.key, n=number.n)
            return facts, [Turn(text, Reply(f"{name.heard} {number.heard}"), graded=False)]
        first = Turn(facts[0].tell(rng, held_out), Reply(facts[0].heard), graded=False)
        second = Turn(facts[1].tell(rng, held_out), Reply(facts[1].heard), graded=False)
        return facts, [first, *self._fillers(rng, held_out, int(rng.random() * 2)), second]

    def _fillers(self, rng: random.Random, held_out: bool, count: int) -> list[Turn]:
        """`count` turns or so of other kinds; they are not graded."""
        kinds = rng.choices(self._kinds, cum_weights=self._weights, k=count)
        turns = (turn for kind in kinds for turn in kind.draw(rng, held_out).turns)
        return [Turn(turn.text, turn.reply, turn.role, graded=False) for turn in turns]


def _at_once(rng: random.Random, held_out: bool, fact: Fact) -> Turn:
    """Told and asked in one message."""
    told = fact.tell(rng, held_out)
    return Turn(f"{told if told[-1] in '.!?' else told + '.'} {fact.ask(rng, held_out)}", fact.answer(True))


class _Name:
    """The user's name."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.x = PEOPLE.draw(rng, held_out)
        if not held_out and rng.random() < 0.05:
            self.x = self.x.lower()
        self.heard = f"Nice to meet you, {self.x}."

    def tell(self, rng: random.Random, held_out: bool) -> str:
        return TELL_NAME.draw(rng, held_out, x=self.x)

    def ask(self, rng: random.Random, held_out: bool) -> str:
        return ASK_NAME.draw(rng, held_out)

    def answer(self, told: bool) -> Reply:
        return Reply(f"Your name is {self.x}." if told else "You have not told me your name.")


def _number(rng: random.Random, held_out: bool) -> int:
    """Below 10 to 10,000. Training has more of like digits: only they teach how many to say again."""
    if not held_out and rng.random() < 0.3:
        return int(str(1 + rng.randrange(9)) * pick(rng, (1, 2, 3, 3, 4, 4)))
    return int(rng.random() * pick(rng, (10, 100, 1000, 1000, 10000)))


class _Number:
    """A number that belongs to the user."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.key, self.n = pick(rng, KEYS), _number(rng, held_out)
        self.heard = f"I will remember {self.n}."

    def tell(self, rng: random.Random, held_out: bool) -> str:
        return TELL_NUMBER.draw(rng, held_out, key=self.key, n=self.n)

    def ask(self, rng: random.Random, held_out: bool) -> str:
        return ASK_NUMBER.draw(rng, held_out, key=self.key)

    def answer(self, told: bool) -> Reply:
        return Reply(f"Your {self.key} is {self.n}." if told else f"You have not told me your {self.key}.")


class _Plain(_Number):
    """A number that is only a number."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        super().__init__(rng, held_out)
        self.key = "number"

    def tell(self, rng: random.Random, held_out: bool) -> str:
        return TELL_PLAIN.draw(rng, held_out, n=self.n)

    def ask(self, rng: random.Random, held_out: bool) -> str:
        return ASK_PLAIN.draw(rng, held_out)


class _Count:
    """How many of something the user has."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.things, self.n = GOODS.draw(rng, held_out), 2 + int(rng.random() * pick(rng, (8, 98, 998)))
        self.heard = f"I will remember {self.n}."

    def tell(self, rng: random.Random, held_out: bool) -> str:
        return TELL_COUNT.draw(rng, held_out, n=self.n, things=self.things)

    def ask(self, rng: random.Random, held_out: bool) -> str:
        return ASK_COUNT.draw(rng, held_out, things=self.things)

    def answer(self, told: bool) -> Reply:
        return Reply(
            f"You have {self.n} {self.things}." if told else f"You have not told me how many {self.things} you have."
        )


Fact = _Name | _Number | _Count
NUMBERS: tuple[Callable[[random.Random, bool], Fact], ...] = (_Number, _Number, _Plain, _Count)
