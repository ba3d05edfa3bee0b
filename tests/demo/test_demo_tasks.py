"""What the demo model is taught: every answer computed again in another way, nothing held out seen in training."""

from __future__ import annotations

import calendar
import datetime
import itertools
import json
import random
import re

import jsonschema
import pytest

from yardmaster.demo.tasks import contents, mix, registry
from yardmaster.demo.tasks.base import Conversation, Reply, Turn
from yardmaster.demo.tasks.catalogue import CATALOGUE
from yardmaster.demo.tasks.phrasing import Phrasing, words_of

KINDS = {kind.name: kind for kind, _ in registry.KINDS}
EVERY = {**KINDS, registry.UNSEEN.name: registry.UNSEEN}
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
HELD_OUT = [False, True]


def drawn(kind: str, held_out: bool, count: int = 300) -> list[Conversation]:
    rng = random.Random(f"{kind} {held_out}")
    return [EVERY[kind].draw(rng, held_out) for _ in range(count)]


def single(kind: str, held_out: bool, count: int = 300) -> list[Turn]:
    turns = []
    for conversation in drawn(kind, held_out, count):
        assert len(conversation.turns) == 1
        assert conversation.turns[0].graded
        turns.append(conversation.turns[0])
    return turns


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


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
            or f"{b} is subtracted from" in text
        )
        assert numbers(turn.text) == ([b, a] if turned or "is " + str(b) + " subtracted from" in text else [a, b]), (
            turn.text
        )
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
    assert 40 < words < 150


def test_the_working_of_sorting_leads_to_the_result():
    insertions = beginnings = 0
    for turn in single("sorting", False, 1000):
        said = turn.reply.text.split(", ")
        working = turn.reply.thoughts["medium"]
        assert turn.reply.thoughts["high"] == f"I go through the list, {working}."
        assert "low" not in turn.reply.thoughts
        if found := re.fullmatch("letters (.*): (.*)", working):
            given, done = (part.split(", ") for part in found.groups())
            assert sorted(given) == done
            assert [word.lower()[: len(done[0])] for word in said] == done
            assert len(set(done)) == len(done)
            if all(turn.text.count(word) == 1 for word in said):
                in_question = sorted(said, key=turn.text.index)
                assert [word.lower()[: len(given[0])] for word in in_question] == given
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
            assert given in asked
            names = DAYS if given in DAYS else MONTHS[1:]
            assert result == names[(names.index(given) + (1 if way == "after" else -1)) % len(names)]
            back = re.search(r"before|precedes|yesterday|was the last", lower)
            assert (way == "before") == bool(back), asked
            seen.add((way, len(names)))
        elif found := re.fullmatch(r"(\d) days? (after|before) (\w+) is (\w+)\.", said):
            n, way, given, result = found.groups()
            assert given in asked
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
            assert found[1] in asked
            assert int(found[2]) == calendar.monthrange(2023, month)[1]
            assert bool(found[3]) == (calendar.monthrange(2024, month)[1] != int(found[2]))
            seen.add("length")
        elif found := re.fullmatch(r"(\w+) is month (\d+)\.", said):
            assert found[1] in asked
            assert MONTHS[int(found[2])] == found[1]
            seen.add("number")
        elif found := re.fullmatch(r"Month (\d+) is (\w+)\.", said):
            n = int(found[1])
            assert MONTHS[n] == found[2]
            assert str(n) in asked or ORDINALS[n - 1] in lower
            seen.add("ordinal")
        elif found := re.fullmatch(r"(Yes|No), (\w+) is (not )?a weekend day\.", said):
            assert found[2] in asked
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


@pytest.mark.parametrize("held_out", HELD_OUT)
@pytest.mark.parametrize("kind", ["tools", "tools_unseen"])
def test_calls_are_of_a_function_offered_with_arguments_of_the_request(kind, held_out):
    direct = cannot = calls = 0
    for conversation in drawn(kind, held_out, 120):
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in conversation.tools}
        assert 1 <= len(offered) == len(conversation.tools) <= 4
        for turn, after in zip(conversation.turns, [*conversation.turns[1:], None], strict=True):
            call = turn.reply.call
            if turn.role == "tool":
                returned = json.loads(turn.text)
                for key, value in returned.items():
                    assert (
                        key in ("status", "state", "ok", "success", "id", "humidity", "source")
                        or str(value) in turn.reply.text
                    )
            elif call is None:
                direct += 1
                cannot += "cannot" in turn.reply.text
            else:
                calls += 1
                assert turn.reply.text == ""
                assert after.role == "tool"
                schema = offered[call.name]
                jsonschema.validate(call.arguments, schema)
                order = list(schema["properties"])
                assert list(call.arguments) == [key for key in order if key in call.arguments]
                assert not set(call.arguments) - set(order)
                for value in call.arguments.values():
                    if (
                        isinstance(value, str)
                        and value not in ("add", "subtract", "multiply", "divide")
                        and not re.search(r" [*/+-] |^[A-Z]{3}$", value)
                    ):
                        assert value in turn.text
                    elif isinstance(value, int) and not isinstance(value, bool):
                        assert value in numbers(turn.text)
                assert turn.reply.thoughts["high"].endswith(f"I call {call.name}.")
    assert calls > 90
    if kind == "tools":
        assert 8 < direct < (50 if held_out else 90)
        assert cannot > 1


def test_calculators_are_called_with_what_was_asked_and_return_its_value():
    signs = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
    spoken = {"plus": "+", "minus": "-", "multiplied by": "*", "times": "*", "divided by": "/"}
    checked = 0
    for conversation in drawn("tools", False, 900):
        for turn, after in zip(conversation.turns, conversation.turns[1:], strict=False):
            if turn.reply.call is None:
                continue
            given = turn.reply.call.arguments
            if found := [
                given[name]
                for name in ("expression", "input", "formula")
                if re.fullmatch(r"\d+ [*/+-] \d+", str(given.get(name)))
            ]:
                expression = found[0]
            elif (operation := [signs[value] for value in given.values() if value in signs]) and {*given} & {
                *"ax",
                "first",
            }:
                (a,), (b,) = (
                    [given[name] for name in names if name in given]
                    for names in (("a", "x", "first"), ("b", "y", "second"))
                )
                expression = f"{a} {operation[0]} {b}"
            else:
                continue
            if "error" in after.text:
                continue
            text = turn.text
            for word, sign in spoken.items():
                text = text.replace(word, sign)
            assert expression in text
            value = next(value for value in json.loads(after.text).values() if after.reply.text.endswith(f" {value}."))
            assert value == pytest.approx(eval(expression), abs=0.006)
            checked += 1
    assert checked > 8


def test_no_function_has_two_parameters_of_one_spelling():
    for function in CATALOGUE:
        names = [name for parameter in function.parameters for name in parameter.names]
        assert len(set(names)) == len(names), function.topic
        slots = [parameter.slot for parameter in function.parameters]
        assert len(set(slots)) == len(slots), function.topic
    assert len({function.topic for function in CATALOGUE}) >= 40


def test_names_of_unseen_functions_are_never_drawn_in_training():
    rng = random.Random(5)
    trained = {tool["function"]["name"] for _ in range(1200) for tool in mix.draw(rng).tools}
    unseen = {
        tool["function"]["name"] for held_out in HELD_OUT for c in drawn("tools_unseen", held_out) for tool in c.tools
    }
    assert len(trained) > 150
    assert len(unseen) > 200
    assert not trained & unseen


@pytest.mark.parametrize("kind", ["identity", "greeting", "beyond"])
def test_fixed_answers(kind):
    texts = {turn.reply.text for held_out in HELD_OUT for turn in single(kind, held_out)}
    assert len(texts) == {"identity": 3, "greeting": 4, "beyond": 1}[kind]
    for text in texts:
        assert kind == "greeting" or "small demo model" in text


def key(conversation: Conversation) -> tuple[str, ...]:
    """What of a conversation must not be shared by training and evaluation."""
    return tuple(turn.text for turn in conversation.turns if turn.graded and turn.role == "user")


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_no_held_out_question_is_ever_drawn_in_training(kind):
    training = {key(conversation) for conversation in drawn(kind, False, 400)}
    assert not training & {key(conversation) for conversation in drawn(kind, True, 100)}


@pytest.mark.parametrize("kind", ["sums", "differences", "reverse", "upper", "spell", "sorting"])
def test_no_held_out_content_is_ever_drawn_in_training(kind):
    training = {turn.reply.text.lower() for turn in single(kind, False, 3000)}
    held_out = {turn.reply.text.lower() for turn in single(kind, True, 300)}
    assert not training & held_out
    assert len(held_out) > 100


def test_a_made_up_name_is_never_one_that_is_held_out():
    real = [onset + vowel for onset in contents.ONSETS for vowel in "aeiou"]
    pool = contents.Pool(real, one_in=2, invented=1.0)
    rng = random.Random(1)
    drawn = {pool.draw(rng, False) for _ in range(2000)}
    assert len(drawn & set(real)) > 20  # it does hit upon real ones
    assert not drawn & set(pool.held_out)


def test_names_and_places_are_split():
    rng = random.Random(2)
    for pool in (contents.PEOPLE, contents.PLACES, contents.LANDS, contents.THINGS, contents.GOODS):
        training = {pool.draw(rng, False) for _ in range(3000)}
        held_out = {pool.draw(rng, True) for _ in range(1000)}
        assert not training & held_out
        assert len(held_out) > 8


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_asked_in_a_dozen_ways_and_one_in_five_is_held_out(kind):
    training = [form for phrasing in KINDS[kind].phrasings for core in phrasing.training for form in core.forms[:1]]
    held_out = [form for phrasing in KINDS[kind].phrasings for core in phrasing.held_out for form in core.forms[:1]]
    assert len(training) >= 12
    assert len(held_out) >= 4
    assert 0.1 < len(held_out) / len(training) < 0.45
    for phrasing in KINDS[kind].phrasings:
        mine = {form for core in phrasing.training for form in core.forms}
        assert not mine & {form for core in phrasing.held_out for form in core.forms}


def test_held_out_phrasings_have_no_word_that_training_does_not_ask_with():
    training = set().union(*(phrasing.words() for kind in KINDS.values() for phrasing in kind.phrasings))
    held_out = set().union(*(phrasing.words(True) for kind in KINDS.values() for phrasing in kind.phrasings))
    assert held_out - training == set()


def test_a_phrasing_fills_spreads_and_dresses():
    phrasing = Phrasing(("What is {a} [plus|and] {b}?", "Add {a} to {b}."), ("Sum {a} {b}",))
    rng = random.Random(0)
    texts = [phrasing.draw(rng, False, a=1, b="McX") for _ in range(2000)]
    assert all("1" in text and "McX" in text and not re.search(r"[{}\[\]|]", text) for text in texts)
    assert {"What is 1 plus McX?", "what is 1 and McX", "Add 1 to McX.", "Can you add 1 to McX?"} <= set(texts)
    assert len(set(texts)) > 400
    assert {phrasing.draw(rng, True, a=1, b=2) for _ in range(50)} == {"Sum 1 2", "sum 1 2"}
    assert words_of("What's {slot}, MY dear?") == {"what", "s", "my", "dear"}


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_right_takes_the_answer_and_nothing_else(kind):
    for conversation in drawn(kind, True, 100):
        for turn in conversation.turns:
            if not turn.graded or turn.reply.call:
                continue
            # a direct answer among tools may be another kind's
            text = turn.reply.text
            judge = EVERY[kind]
            assert judge.right(turn, text)
            assert judge.right(turn, f" {text.rstrip('.')}. ")
            assert not judge.right(turn, "")
            assert not judge.right(turn, text + " 7")
            assert not judge.right(turn, text[1:])
            assert not judge.right(turn, text[:-3])


def test_right_is_strict_on_results():
    sums, upper, sorting, memory = (KINDS[name] for name in ("sums", "upper", "sorting", "memory"))

    def turn(text: str) -> Turn:
        return Turn("", Reply(text))

    assert sums.right(turn("34 + 8 = 42"), "42")
    assert sums.right(turn("34 + 8 = 42"), "34+8=42.")
    assert not sums.right(turn("34 + 8 = 42"), "34 + 9 = 42")
    assert not sums.right(turn("8 - 34 = -26"), "8 - 34 = 26")
    assert upper.right(turn("CAT"), '"CAT".')
    assert not upper.right(turn("CAT"), "Cat")
    assert sorting.right(turn("1, 2, 3"), "1 2 and 3")
    assert not sorting.right(turn("1, 2, 3"), "1, 3, 2")
    assert not sorting.right(turn("1, 2, 3"), "1, 2, 3, 4")
    assert memory.right(turn("Your name is Ann."), "Ann")
    assert memory.right(turn("You have 5 cats."), "5")
    assert not memory.right(turn("Your name is Ann."), "Anna")
    assert not memory.right(turn("You have not told me your name."), "Your name is not.")


def test_the_same_seed_draws_the_same_and_another_does_not():
    one, same, other = (
        [mix.draw(rng) for _ in range(30)] for rng in (random.Random(9), random.Random(9), random.Random(8))
    )
    assert one == same
    assert one != other


def test_the_mix_has_everything_in_it():
    rng = random.Random(4)
    conversations = [mix.draw(rng) for _ in range(900)]
    kinds = [conversation.kind for conversation in conversations]
    assert set(kinds) == {*KINDS, "mix"}
    assert 0.2 < kinds.count("mix") / len(kinds) < 0.4
    assert max(len(conversation.turns) for conversation in conversations if conversation.kind == "mix") == mix.LONGEST
    assert sum(bool(conversation.instructions) for conversation in conversations) > 30
    for conversation in conversations:
        for turn in conversation.turns:
            assert turn.text
            assert bool(turn.reply.text) != bool(turn.reply.call)
            assert set(turn.reply.thoughts) <= {"medium", "high"}
            assert (turn.text + turn.reply.text).isascii()
