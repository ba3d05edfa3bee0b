"""Incremental text: equal to the whole, whatever the split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from yardmaster.server.text.detokenizer import Detokenizer
from yardmaster.server.text.stop import StopMatcher
from yardmaster.server.text.tokenizer import Tokenizer

QUICK = settings(max_examples=150, suppress_health_check=list(HealthCheck))
TokenizerOf = Callable[[str], Tokenizer]


def split(items: Sequence, cuts: list[int]) -> list:
    edges = [0, *sorted(min(cut, len(items)) for cut in cuts), len(items)]
    return [items[left:right] for left, right in pairwise(edges)]


CUTS = st.lists(st.integers(0, 40), max_size=8)


@pytest.mark.parametrize("kind", ["harmony", "qwen", "mistral"])
def test_increments_join_to_the_whole(kind: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(kind)
    text_ids = st.text(max_size=12).map(tokenizer.encode)
    wild = st.lists(st.integers(-2, tokenizer.vocab_size + 3), max_size=30)

    @QUICK
    @given(
        st.one_of(wild, text_ids, st.tuples(text_ids, wild).map(lambda both: both[0] + both[1])), CUTS, st.booleans()
    )
    def check(ids: list[int], cuts: list[int], skip: bool) -> None:
        stream = Detokenizer(tokenizer, skip, at_start=True)
        parts = [stream.feed(chunk) for chunk in split(ids, cuts)]
        assert "".join([*parts, stream.finish()]) == tokenizer.decode(ids, skip)
        going_on = Detokenizer(tokenizer, skip)
        kept = going_on.feed(ids) + going_on.finish()
        assert tokenizer.strip_start(kept) == tokenizer.decode(ids, skip)

    check()


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_decoders_with_neighbours(kind: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of(kind)
    for ids in ([2, 3, 4, 6, 7, 5, 8, 9, 10] * 4, list(range(2, tokenizer.vocab_size)), [3] * 30, []):
        stream = Detokenizer(tokenizer, at_start=True)
        parts = [stream.feed([token_id]) for token_id in ids]
        assert "".join([*parts, stream.finish()]) == tokenizer.decode(ids)
        assert not ids or any(parts[: len(ids) // 2])  # it streams


def test_an_unfinished_character_is_held_back(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    ids = [next(i for i in range(300) if tokenizer.token_bytes(i) == bytes([byte])) for byte in "🙃".encode()]
    stream = Detokenizer(tokenizer)
    assert [stream.feed([token_id]) for token_id in ids] == ["", "", "", "🙃"]
    assert stream.finish() == ""
    assert stream.feed(ids[:2]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.feed(tokenizer.encode("a")) == "a"


def test_only_the_very_first_space_is_dropped(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("mistral")
    spaced, letter = tokenizer.encode("the")[0], tokenizer.encode_trusted("b")[-1]
    for at_start, first in ((True, "the"), (False, " the")):
        stream = Detokenizer(tokenizer, at_start=at_start)
        assert [stream.feed([i]) for i in (spaced, spaced, letter)] == [first, " the", "b"]
    stream = Detokenizer(tokenizer, at_start=True)
    assert [stream.feed([i]) for i in (letter, spaced)] == ["b", " the"]


# Stop strings


def naive(text: str, stops: Sequence[str], include: bool) -> tuple[str, str | None]:
    """The stop string that ends first, the longest of those, by looking at every end in the whole text."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


LETTERS = st.text("ab€", max_size=30)


@settings(max_examples=400)
@given(LETTERS, st.lists(st.text("ab€", min_size=1, max_size=6), max_size=4), CUTS, st.booleans())
@example("abcabd", ["abd", "cab"], [3], False)
@example("aab", ["ab", "aab"], [1, 2], False)
def test_stop_matches_a_naive_search(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    matcher = StopMatcher(stops, include)
    emitted = [matcher.feed(chunk) for chunk in split(text, cuts)]
    emitted.append(matcher.finish())
    assert ("".join(emitted), matcher.matched) == naive(text, stops, include)
    if matcher.matched:
        assert matcher.feed("ab") == matcher.finish() == ""


@settings(max_examples=200)
@given(LETTERS, st.lists(st.text("ab€", min_size=1, max_size=6), min_size=1, max_size=4))
def test_no_more_is_held_back_than_a_stop_string_may_need(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    out = ""
    for place, character in enumerate(text):
        out += matcher.feed(character)
        if matcher.matched:
            return
        seen = text[: place + 1]
        need = max(
            (size for stop in stops for size in range(len(stop)) if seen.endswith(stop[:size])), default=0
        )  # the longest suffix that begins a stop string
        assert out == seen[: len(seen) - need]


@settings(max_examples=100)
@given(st.lists(st.text("ab", max_size=3), max_size=12), st.integers(0, 8))
def test_text_of_the_first_tokens_is_not_searched(tokens: list[str], minimum: int) -> None:
    matcher = StopMatcher(["ab", "bb"], min_tokens=minimum)
    out = "".join([*(matcher.feed(text) for text in tokens), matcher.finish()])
    free = "".join(tokens[:minimum])
    rest, matched = naive("".join(tokens[minimum:]), ["ab", "bb"], False)
    assert (out, matcher.matched) == (free + rest, matched)


def test_many_long_stop_strings_cost_nothing_much() -> None:
    stops = ["a" * size + "b" for size in range(1, 500)]
    matcher = StopMatcher(stops)
    assert sum(len(matcher.feed("a" * 100)) for _ in range(2000)) == 200_000 - 499
    assert matcher.feed("b") == ""
    assert matcher.matched == "a" * 499 + "b"
