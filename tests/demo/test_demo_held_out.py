"""What is held out is never drawn in training, a phrasing is what it says, and answers are marked strictly."""

from __future__ import annotations

import random
import re

import pytest

from yardmaster.demo.checking import right
from yardmaster.demo.tasks import contents, mix
from yardmaster.demo.tasks.base import Reply, Turn
from yardmaster.demo.tasks.phrasing import Phrasing, words_of
from yardmaster.tests.demo.drawn_tasks import EVERY, KINDS, drawn, key, single


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


@pytest.mark.parametrize("kind", ["sums", "differences", "sorting", "calendar"])
def test_what_is_said_aloud_at_low_effort_is_marked_by_its_result(kind):
    aloud = [turn for turn in single(kind, True) if turn.reply.aloud]
    assert len(aloud) > 50
    for turn in aloud:
        reply = turn.reply
        assert (reply.said("medium"), reply.said("high")) == (reply.text, reply.text)
        said = reply.said("low")
        assert said == f"{reply.thoughts['medium']}. So {reply.text}"
        assert right(KINDS[kind], turn, {"content": said})
        assert right(KINDS[kind], turn, {"content": reply.text})
        assert not right(KINDS[kind], turn, {"content": said[:-3]})
        assert not right(KINDS[kind], turn, {"content": reply.thoughts["medium"]})


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
        [mix.Mix().draw(rng) for _ in range(30)] for rng in (random.Random(9), random.Random(9), random.Random(8))
    )
    assert one == same
    assert one != other


def test_the_mix_has_everything_in_it():
    rng = random.Random(4)
    conversations = [mix.Mix().draw(rng) for _ in range(900)]
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
