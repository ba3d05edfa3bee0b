"""Days of the week and months: what comes after what, how long, which number."""

from __future__ import annotations

import random
from collections.abc import Callable

from .base import Conversation, Reply, Turn
from .phrasing import Phrasing, pick
from .split import same

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth",
)  # fmt: skip

DAY_AFTER = Phrasing(
    (
        "What day [comes|is] after {day}?", "Which day [comes|is] after {day}?", "What is the day after {day}?",
        "What day follows {day}?", "Which day follows {day}?", "What comes after {day}?", "The day after {day}[|?]",
        "If today is {day}, what [day|] is tomorrow?", "Today is {day}. What [day|] is tomorrow?",
        "Name the day after {day}.", "Tell me the day after {day}.", "What is the next day after {day}?",
        "Give me the day that follows {day}.", "It is {day}. Which day is tomorrow?", "If today is {day}, tomorrow is?",
        "Now it is {day}. What day is next?", "It is {day} today. What comes tomorrow?",
        "{day} is today. And tomorrow?",
        "If it is {day}, what is the next day?",
    ),
    ("Tell me which day comes after {day}.", "Which day is next after {day}?",
     "If it is {day} today, what day is it tomorrow?"),
)  # fmt: skip
DAY_BEFORE = Phrasing(
    (
        "What day [comes|is] before {day}?", "Which day [comes|is] before {day}?", "What is the day before {day}?",
        "What day precedes {day}?", "What comes before {day}?", "The day before {day}[|?]",
        "If today is {day}, what [day|] was yesterday?", "Today is {day}. What [day|] was yesterday?",
        "Name the day before {day}.", "Tell me the day before {day}.", "Which day was it before {day}?",
        "It is {day}. Which day was yesterday?", "It is {day} today. What was yesterday?",
        "If it is {day}, what was the day before?", "{day} is today. And yesterday?",
    ),
    ("Tell me which day comes before {day}.", "Which day precedes {day}?",
     "If it is {day} today, what day was it yesterday?"),
)  # fmt: skip
DAYS_AFTER = Phrasing(
    (
        "What day is {n} after {day}?", "Which day is {n} after {day}?", "What day comes {n} after {day}?",
        "{n} after {day}[|?]", "If today is {day}, what day is it in {n}?", "Today is {day}. What day is it in {n}?",
        "Which day of the week is {n} after {day}?", "Tell me the day {n} after {day}.",
        "What day will it be {n} after {day}?", "It is {day}. Which day is it in {n}?", "Name the day {n} after {day}.",
        "It is {day} today. What will it be in {n}?", "In {n}, what day will it be if today is {day}?",
        "Count {n} from {day}.", "Which day comes {n} after {day}?", "Now it is {day}. What is it {n} from now?",
        "It is {day} today. Name the day that comes in {n}.", "What day comes in {n} if today is {day}?",
    ),
    ("Tell me which day is {n} after {day}.", "Today is {day}. Which day will it be in {n}?"),
)  # fmt: skip
DAYS_BEFORE = Phrasing(
    (
        "What day is {n} before {day}?", "Which day is {n} before {day}?", "What day comes {n} before {day}?",
        "{n} before {day}[|?]", "If today is {day}, what day was it {n} ago?",
        "Today is {day}. What day was it {n} ago?", "Which day of the week is {n} before {day}?",
        "Tell me the day {n} before {day}.", "What day was {n} before {day}?", "It is {day}. Which day was it {n} ago?",
        "It is {day} today. What was it {n} ago?", "{n} ago, what day was it if today is {day}?",
        "Name the day {n} before {day}.", "Which day comes {n} before {day}?", "Count {n} back from {day}.",
        "What day was {n} ago if today is {day}?", "It is {day} today. Name the day that was {n} ago.",
        "Now it is {day}. What was {n} ago?", "Which day was {n} before {day}?",
    ),
    ("Tell me which day is {n} before {day}.", "Today is {day}. Which day was {n} ago?"),
)  # fmt: skip
MONTH_AFTER = Phrasing(
    (
        "What month [comes|is] after {month}?", "Which month [comes|is] after {month}?",
        "What is the month after {month}?", "What month follows {month}?", "Which month follows {month}?",
        "What comes after {month}?", "The month after {month}[|?]", "If it is {month} now, what is the next month?",
        "Name the month after {month}.", "Tell me the month after {month}.", "What is the next month after {month}?",
        "Give me the month that follows {month}.", "Now it is {month}. Which month comes next?",
        "This month is {month}. What is the next [one|month]?", "If this is {month}, what month is next?",
        "It is {month}. What comes next?",
    ),
    ("Tell me which month comes after {month}.", "Which month is next after {month}?",
     "It is {month} now. What month is next?"),
)  # fmt: skip
MONTH_BEFORE = Phrasing(
    (
        "What month [comes|is] before {month}?", "Which month [comes|is] before {month}?",
        "What is the month before {month}?", "What month precedes {month}?", "What comes before {month}?",
        "The month before {month}[|?]", "If it is {month} now, what was the last month?",
        "Name the month before {month}.", "Tell me the month before {month}.", "Which month was it before {month}?",
        "Now it is {month}. Which month came before?", "This month is {month}. What was the last [one|month]?",
        "If this is {month}, what month was before?", "It is {month}. What came before?",
    ),
    ("Tell me which month comes before {month}.", "Which month precedes {month}?",
     "It is {month} now. What month was before?"),
)  # fmt: skip
LENGTH = Phrasing(
    (
        "How many days [does {month} have|are in {month}|are there in {month}|has {month}]?", "How long is {month}?",
        "How many days [has|is] the month of {month}?", "Number of days in {month}[|?]", "Days in {month}[|?]",
        "Tell me how many days {month} has.", "What is the number of days in {month}?",
        "How many days long is {month}?", "Give me the number of days in {month}.",
    ),
    ("Tell me how many days there are in {month}.", "How many days does the month of {month} have?"),
)  # fmt: skip
NUMBER = Phrasing(
    (
        "What number [is {month}|does {month} have]?", "Which number [is {month}|does {month} have]?",
        "What number month is {month}?", "What is the number of {month}?", "Which month of the year is {month}?",
        "{month} is which month of the year?", "Tell me the number of {month}.", "What number is the month of {month}?",
        "Number of the month {month}[|?]",
    ),
    ("Give me the number of the month {month}.", "Which number is the month of {month}?"),
)  # fmt: skip
ORDINAL = Phrasing(
    (
        "What is the {nth} month?", "Which is the {nth} month [|of the year]?", "What is the {nth} month of the year?",
        "Which month is the {nth} [|one]?", "Name the {nth} month [|of the year].", "The {nth} month [|of the year]?",
        "What month has the number {n}?", "Which month has number {n}?", "What month is number {n}?",
        "Tell me the {nth} month.", "Month number {n}[|?]",
    ),
    ("Tell me the {nth} month of the year.", "Give me the {nth} month.", "Which month is number {n}?"),
)  # fmt: skip
WEEK = Phrasing(
    (
        "How many days [does|has] a week [have|]?", "How many days are in a week?",
        "How many days are there in [a|one] week?", "How long is a week?", "Days in a week[|?]",
        "Tell me how many days a week has.",
    ),
    ("What is the number of days in a week?", "How many days long is a week?"),
)  # fmt: skip
YEAR = Phrasing(
    (
        "How many months [does|has] a year [have|]?", "How many months are in a year?",
        "How many months are there in [a|one] year?", "Months in a year[|?]", "Tell me how many months a year has.",
    ),
    ("What is the number of months in a year?", "How many months long is a year?"),
)  # fmt: skip
WEEKEND = Phrasing(
    (
        "Is {day} a weekend day?", "Is {day} [part of|in|on] the weekend?", "Is {day} a day of the weekend?",
        "Does {day} belong to the weekend?", "Tell me if {day} is a weekend day.", "{day}: is that the weekend?",
        "Is {day} on a weekend?", "Is it the weekend on {day}?",
    ),
    ("Tell me if {day} is part of the weekend.", "Is it a weekend day on {day}?"),
)  # fmt: skip


class Calendar:
    """A finite set of facts: what is held out are the phrasings."""

    name = "calendar"
    phrasings = (
        DAY_AFTER, DAY_BEFORE, DAYS_AFTER, DAYS_BEFORE, MONTH_AFTER, MONTH_BEFORE, LENGTH, NUMBER, ORDINAL, WEEK, YEAR,
        WEEKEND,
    )  # fmt: skip
    says = (
        " ".join((*DAYS, *MONTHS, *ORDINALS)),
        "days comes after before has in a leap year is month yes no not weekend day st nd rd th then",
        "one two three four five six seven I count the days. So",
    )

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        text, reply = pick(rng, _QUESTIONS)(rng, held_out)
        if rng.random() < 0.12:  # many write days and months small
            text = text.lower()
        return Conversation(self.name, (Turn(text, reply),))

    def right(self, turn: Turn, said: str) -> bool:
        return same(turn.reply.text, said)


def _neighbour(rng: random.Random, held_out: bool) -> tuple[str, Reply]:
    of, after, before = pick(rng, ((DAYS, DAY_AFTER, DAY_BEFORE), (MONTHS, MONTH_AFTER, MONTH_BEFORE)))
    at = int(rng.random() * len(of))
    step = pick(rng, (1, -1))
    slot = "day" if of is DAYS else "month"
    text = (after if step > 0 else before).draw(rng, held_out, **{slot: of[at]})
    return text, Reply(f"{of[(at + step) % len(of)]} comes {'after' if step > 0 else 'before'} {of[at]}.")


def _distance(rng: random.Random, held_out: bool) -> tuple[str, Reply]:
    at, n, step = int(rng.random() * 7), 1 + int(rng.random() * 7), pick(rng, (1, -1))
    number = pick(rng, (str(n), ("one", "two", "three", "four", "five", "six", "seven")[n - 1]))
    unit = "day" if n == 1 else "days"
    text = (DAYS_AFTER if step > 0 else DAYS_BEFORE).draw(rng, held_out, n=f"{number} {unit}", day=DAYS[at])
    walk = [DAYS[(at + step * i) % 7] for i in range(n + 1)]
    asked = f"{n} {unit} {'after' if step > 0 else 'before'} {DAYS[at]}"
    said = f"{asked} is {walk[-1]}."
    steps = f"{asked}: {', '.join(f'{i} {day}' for i, day in enumerate(walk) if i)}"
    return text, Reply(said, {"medium": steps, "high": f"I count the days: {steps}."}, aloud=True)


def _length(rng: random.Random, held_out: bool) -> tuple[str, Reply]:
    at = int(rng.random() * 12)
    leap = ", 29 in a leap year" if at == 1 else ""
    return LENGTH.draw(rng, held_out, month=MONTHS[at]), Reply(f"{MONTHS[at]} has {LENGTHS[at]} days{leap}.")


def _number(rng: random.Random, held_out: bool) -> tuple[str, Reply]:
    at = int(rng.random() * 12)
    if rng.random() < 0.5:
        return NUMBER.draw(rng, held_out, month=MONTHS[at]), Reply(f"{MONTHS[at]} is month {at + 1}.")
    nth = ORDINALS[at] if rng.random() < 0.5 else f"{at + 1}{('st', 'nd', 'rd')[at] if at < 3 else 'th'}"
    return ORDINAL.draw(rng, held_out, nth=nth, n=at + 1), Reply(f"Month {at + 1} is {MONTHS[at]}.")


def _total(rng: random.Random, held_out: bool) -> tuple[str, Reply]:
    if rng.random() < 0.5:
        return WEEK.draw(rng, held_out), Reply("A week has 7 days.")
    return YEAR.draw(rng, held_out), Reply("A year has 12 months.")


def _weekend(rng: random.Random, held_out: bool) -> tuple[str, Reply]:
    at = int(rng.random() * 7)
    text = WEEKEND.draw(rng, held_out, day=DAYS[at])
    return text, Reply(f"Yes, {DAYS[at]} is a weekend day." if at > 4 else f"No, {DAYS[at]} is not a weekend day.")


# Repeated by how much there is to learn.
_QUESTIONS: tuple[Callable[[random.Random, bool], tuple[str, Reply]], ...] = (
    _neighbour, _neighbour, _neighbour, _distance, _distance, _distance, _distance, _distance, _length, _number,
    _number, _total, _weekend,
)  # fmt: skip
