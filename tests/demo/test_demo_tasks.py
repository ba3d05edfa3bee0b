"""Every answer that the tasks teach is right: computed again here, from the question alone."""

from __future__ import annotations

import calendar
import datetime
import itertools
import random
import re

import pytest

from yardmaster.demo.tasks import contents, registry
from yardmaster.tests.demo.drawn_tasks import EVERY, HELD_OUT, drawn, numbers, single

DAYS = list(calendar.day_name)
MONTHS = list(calendar.month_name)
WORDS = ["one", "two", "three", "four", "five", "six", "seven"]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]


@pytest.mark.parametrize("held_out", HELD_OUT)
def test_sums_are_right(held_out):
    for turn in single("sums", held_out):
        a, b, result = numbers(turn.reply.text)
        assert sorted(numbers(turn.text)) == sorted([a, b])
        assert result == a + b
        assert max(a, b) <= 999


@pytest.mark.parametrize("held_out", HELD_OUT)
def test_differences_are_right(held_out):
    below = 0
    for turn in single("differences", held_out):
        a, b, result = (int(n) for n in re.fullmatch(r"(\d+) - (\d+) = (-?\d+)", turn.reply.text).groups())
        assert sorted(numbers(turn.text)) == sorted([a, b])
        assert result == a - b
        below += result < 0
        text = turn.text.lower()
        # what is taken away stands after these words, what it is taken from after those
        turned = (
            re.search(r"(subtract|take|subtracted|decrease|less than) .*\d.* (away )?(from) ", text)
            or "less than" in text
            or "smaller" in text
            or re.search(rf"\b{b} (is )?subtracted from ", text)
        )
        assert numbers(turn.text) == ([b, a] if turned else [a, b]), turn.text
    assert 50 < below < 200


def test_the_working_of_sums_and_differences_leads_to_the_result():
    for kind in ("sums", "differences"):
        for turn in single(kind, False):
            result = int(turn.reply.text.split(" = ")[1])
            for effort in ("medium", "high"):
                thoughts = re.sub(r" ([+=-]) ", r"\1", turn.reply.thoughts[effort])
                columns = re.findall(r"(\d+(?:[+-]\d+)+)=(\d+)", thoughts)
                value = 0
                for at, (terms, total) in enumerate(columns):
                    assert eval(terms) == int(total)
                    last = at + 1 == len(columns)
                    value += (int(total) if last else int(total) % 10) * 10**at
                assert value == abs(result)
                assert len(columns) == max(len(str(n)) for n in numbers(turn.reply.text)[:2])
                assert ("<" in thoughts or "less than" in thoughts) == (result < 0)
            assert "low" not in turn.reply.thoughts


def test_half_of_the_operands_have_three_digits():
    for kind in ("sums", "differences"):
        large = [max(numbers(turn.reply.text)[:2]) > 99 for turn in single(kind, False, 1000)]
        assert 0.4 < sum(large) / len(large) < 0.7


@pytest.mark.parametrize("kind", ["reverse", "upper", "spell"])
@pytest.mark.parametrize("held_out", HELD_OUT)
def test_words_are_worked_on_letter_by_letter(kind, held_out):
    for turn in single(kind, held_out):
        said = turn.reply.text
        if kind == "upper":
            assert said == said.upper()
            assert re.search(rf"\b{said}\b", turn.text, re.IGNORECASE)
            word = said.lower()
        else:
            word = said[::-1] if kind == "reverse" else said[::2]
            assert re.search(rf"\b{word}\b", turn.text)
            assert kind == "reverse" or set(said[1::2]) <= {"-"}
        assert turn.reply.thoughts["high"].lower().startswith(" ".join(word.lower()))
        if held_out:
            assert word.lower() in contents.REAL


def test_every_word_of_the_vocabulary_is_to_be_spelled():
    words = {word for word in registry.vocabulary(EVERY.values()) if len(word) > 1}
    spelled = {turn.reply.text.replace("-", "").lower() for turn in single("spell", False, 30000)}
    assert len(words) > 500
    assert len(words - spelled) < 0.02 * len(words)


def test_words_like_real_ones_are_none_that_is_held_out():
    words, rng = contents.Words(("yard",)), random.Random(7)
    pairs = {pair for word in contents.REAL for pair in itertools.pairwise(word)}
    crossed = {words.crossed(rng) for _ in range(2000)}
    assert len(crossed) > 1500
    assert not crossed & set(contents.REAL)
    assert all({*itertools.pairwise(word)} <= pairs and 2 <= len(word) <= contents.LONGEST for word in crossed)
    for word in ("valley", "ox", "wallet"):
        near = {words.near(rng, word, 3) for _ in range(500)}
        assert len(near) == 25 * min(3, len(word))
        assert all(sum(a != b for a, b in zip(word, other, strict=True)) == 1 for other in near)
        assert all(other[3:] == word[3:] for other in near)
        for other in (words.sharing(rng, word) for _ in range(500)):
            assert other.endswith(word[-1])
            assert len(other) <= contents.LONGEST
            assert other not in words.held_out


@pytest.mark.parametrize("held_out", HELD_OUT)
def test_lists_are_sorted(held_out):
    words = 0
    for turn in single("sorting", held_out):
        said = turn.reply.text.split(", ")
        if said[0].isdigit():
            down = re.search(
                r"descend|decreas|largest first|(larg|high)\w* to|from (the )?(larg|high)|reverse order",
                turn.text,
                re.IGNORECASE,
            )
            assert [int(n) for n in said] == sorted(numbers(turn.text), reverse=bool(down)), turn.text
            assert 3 <= len(said) <= 5
        else:
            words += 1
            assert 3 <= len(said) <= 4
            assert all(a.lower() <= b.lower() for a, b in itertools.pairwise(said))
            assert all(re.search(rf"\b{word}\b", turn.text) for word in said)
    assert (60 < words < 120) if held_out else (100 < words < 170)


def test_the_working_of_sorting_leads_to_the_result():
    insertions = beginnings = 0
    for turn in single("sorting", False, 1000):
        said = turn.reply.text.split(", ")
        working = turn.reply.thoughts["medium"]
        assert turn.reply.thoughts["high"] == f"I go through the list, {working}."
        assert "low" not in turn.reply.thoughts
        if found := re.fullmatch("letters (.*?): (.*?)(?:; (.*): (.*))?", working):
            firsts, ordered = (part.split(", ") for part in found.groups()[:2])
            words = [word.lower() for word in said]
            assert sorted(firsts) == [word[0] for word in words]
            read = [letter if letter != "again" else "" for letter in ordered]
            assert read == [word[0] * (not at or words[at - 1][0] != word[0]) for at, word in enumerate(words)]
            more, done = ((part or "").replace(", ", ",").replace(" ", "").split(",") for part in found.groups()[2:])
            alike = [word for word in words if firsts.count(word[0]) > 1]
            assert sorted(more) == done
            assert len(set(done)) == len(done)
            enough = max(map(len, done))  # a word may be shorter
            assert [word[:enough] for word in alike] == (done if alike else [])
            assert not alike or enough >= 3 or enough == max(map(len, alike))
            if all(turn.text.count(word) == 1 for word in said):
                in_question = sorted(said, key=turn.text.index)
                assert [word.lower()[0] for word in in_question] == firsts
                if alike:
                    assert [word.lower()[:enough] for word in in_question if word.lower() in alike] == more
                beginnings += 1
        else:
            first, steps = re.fullmatch(r"(smallest|largest) first: (.*)", working).groups()
            begins, *steps = steps.split("; ")
            assert len({len(item) for item in re.findall(r"\d+", working)}) == 1
            items, lists = numbers(begins), [numbers(begins)]
            for step in steps:
                item, done = step.split(": ")
                items.append(int(item))
                lists.append(numbers(done))
            assert items == numbers(turn.text)
            assert lists == [sorted(items[: n + 1], reverse=first == "largest") for n in range(len(items))]
            assert lists[-1] == [int(n) for n in said]
            insertions += 1
    assert insertions > 400
    assert beginnings > 150


def monday_is(day: str, shift: int) -> str:
    return DAYS[(datetime.date(2024, 1, 1 + DAYS.index(day)) + datetime.timedelta(days=shift)).weekday()]


@pytest.mark.parametrize("held_out", HELD_OUT)
def test_days_and_months_are_right(held_out):
    seen = set()
    for turn in single("calendar", held_out, 600):
        asked, said = turn.text, turn.reply.text
        lower = asked.lower()
        if found := re.fullmatch(r"(\w+) comes (after|before) (\w+)\.", said):
            result, way, given = found.groups()
            assert given.lower() in lower
            names = DAYS if given in DAYS else MONTHS[1:]
            assert result == names[(names.index(given) + (1 if way == "after" else -1)) % len(names)]
            back = re.search(r"before|precedes|yesterday|was the last", lower)
            assert (way == "before") == bool(back), asked
            seen.add((way, len(names)))
        elif found := re.fullmatch(r"(\d) days? (after|before) (\w+) is (\w+)\.", said):
            n, way, given, result = found.groups()
            assert given.lower() in lower
            assert n in asked or WORDS[int(n) - 1] in lower
            assert result == monday_is(given, int(n) if way == "after" else -int(n))
            assert (way == "before") == bool(re.search(r"before|ago|back", lower))
            assert turn.reply.thoughts["high"] == f"I count the days: {turn.reply.thoughts['medium']}."
            stated, _, steps = turn.reply.thoughts["medium"].partition(": ")
            assert said.startswith(f"{stated} is ")
            walked = [step.split(" ") for step in steps.split(", ")]
            sign = 1 if way == "after" else -1
            assert walked == [[str(i), monday_is(given, sign * i)] for i in range(1, int(n) + 1)]
            seen.add(way)
        elif found := re.fullmatch(r"(\w+) has (\d+) days(, 29 in a leap year)?\.", said):
            month = MONTHS.index(found[1])
            assert found[1].lower() in lower
            assert int(found[2]) == calendar.monthrange(2023, month)[1]
            assert bool(found[3]) == (calendar.monthrange(2024, month)[1] != int(found[2]))
            seen.add("length")
        elif found := re.fullmatch(r"(\w+) is month (\d+)\.", said):
            assert found[1].lower() in lower
            assert MONTHS[int(found[2])] == found[1]
            seen.add("number")
        elif found := re.fullmatch(r"Month (\d+) is (\w+)\.", said):
            n = int(found[1])
            assert MONTHS[n] == found[2]
            assert str(n) in asked or ORDINALS[n - 1] in lower
            seen.add("ordinal")
        elif found := re.fullmatch(r"(Yes|No), (\w+) is (not )?a weekend day\.", said):
            assert found[2].lower() in lower
            assert (found[1] == "Yes") == (found[2] in DAYS[5:]) == (not found[3])
            seen.add("weekend")
        else:
            assert said in ("A week has 7 days.", "A year has 12 months.")
            assert ("week" in lower) == ("7" in said)
            seen.add("total")
    assert len(seen) == 4 + 2 + 5


@pytest.mark.parametrize("held_out", HELD_OUT)
def test_memory_is_of_what_was_told_and_says_when_nothing_was(held_out):
    unknown = far = 0
    for conversation in drawn("memory", held_out):
        told: dict[str, str] = {}
        at_once = len(conversation.turns) == 1 and not conversation.turns[0].reply.text.startswith("You have not")
        for turn in conversation.turns:
            said = turn.reply.text
            if not turn.graded:
                if found := re.match(r"Nice to meet you, (\w+)\.", said):
                    told["name"] = found[1]
                    assert found[1] in turn.text
                if found := re.search(r"I will remember (\d+)\.$", said):
                    assert found[1] in turn.text
                    told["number"] = found[1]
                    told["sentence"] = turn.text
                continue
            if at_once:
                result = re.search(r" is (\w+)\.$|^You have (\d+) ", said)
                assert re.search(rf"\b{result[1] or result[2]}\b", turn.text)
            elif said.startswith("You have not told me"):
                unknown += 1
                assert ("name" in told if said == "You have not told me your name." else "number" in told) is False
            elif found := re.fullmatch(r"Your name is (\w+)\.", said):
                assert found[1] == told["name"]
            else:
                what, number = (
                    re.fullmatch(r"Your (.+) is (\d+)\.", said).groups()
                    if said[:4] == "Your"
                    else re.fullmatch(r"You have (\d+) (\w+)\.", said).groups()[::-1]
                )
                assert number == told["number"]
                plain = what == "number"
                assert what in told["sentence"] or plain
                assert what in turn.text
            far += len(conversation.turns) > 4
        assert conversation.turns[-1].graded
    assert 15 < unknown < 120
    assert far > 80


@pytest.mark.parametrize("kind", ["identity", "greeting", "beyond"])
def test_fixed_answers(kind):
    texts = {turn.reply.text for held_out in HELD_OUT for turn in single(kind, held_out)}
    assert len(texts) == {"identity": 3, "greeting": 4, "beyond": 1}[kind]
    for text in texts:
        assert kind == "greeting" or "small demo model" in text
