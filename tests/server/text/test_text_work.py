"""A token costs the same however long the answer is before it: counted in ids looked at, not in time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from yardmaster.engine.messages import RequestOutput, Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.http.choice import Choice
from yardmaster.server.http.splitter import HarmonySplitter, PlainSplitter
from yardmaster.server.text import detokenizer as detokenizer_module
from yardmaster.server.text.detokenizer import Detokenizer
from yardmaster.server.text.tokenizer import Tokenizer

TokenizerOf = Callable[[str], Tokenizer]

LENGTH = 4000
TEXT = "the quick fox 你好世界 🙂🙃 naïve — Größe ☃ 0123\n"
WINDOW_IDS = 4 * detokenizer_module.WINDOW  # two decodings of at most two windows


class Counting:
    """A tokenizer, and how many ids have been turned into bytes or text by it."""

    def __init__(self, inner: Tokenizer) -> None:
        self._inner = inner
        self.ids = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def token_bytes(self, token_id: int) -> bytes:
        self.ids += 1
        return self._inner.token_bytes(token_id)

    def token_text(self, token_id: int) -> str:
        self.ids += 1
        return self._inner.token_text(token_id)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        self.ids += len(ids)
        return self._inner.decode(ids, skip_special_tokens)


def answers(tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Long ones: text with characters of many tokens, bytes that are no text, and ids at random."""
    yield (tokenizer.encode(TEXT) * LENGTH)[:LENGTH]
    stray = next((i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) in (b"\x80", b"\xf0")), 3)
    yield [stray] * LENGTH
    yield random.choices(range(tokenizer.vocab_size), k=LENGTH)


@pytest.mark.parametrize("kind", ["harmony", "qwen", "mistral", "unigram", "wordpiece"])
@pytest.mark.parametrize("skip", [True, False])
def test_each_token_is_looked_at_a_bounded_number_of_times(kind: str, skip: bool, tokenizer_of: TokenizerOf) -> None:
    real = tokenizer_of(kind)
    most = 1 if real.decodes_bytes else WINDOW_IDS
    for ids in answers(real):
        counting = Counting(real)
        stream = Detokenizer(counting, skip)  # type: ignore[arg-type]
        parts, worst = [], 0
        for token_id in ids:
            before = counting.ids
            parts.append(stream.feed([token_id]))
            worst = max(worst, counting.ids - before)
        parts.append(stream.finish())
        assert worst <= most
        assert counting.ids <= most * (LENGTH + 1)
        if real.decodes_bytes:
            assert real.strip_start("".join(parts)) == real.decode(ids, skip)


@pytest.mark.parametrize("kind", ["harmony", "qwen", "mistral"])
@pytest.mark.parametrize("stop", [(), ("never to be seen", "世界 nor this")])
def test_so_it_is_in_a_whole_choice(kind: str, stop: tuple[str, ...], tokenizer_of: TokenizerOf) -> None:
    """With all that a served answer passes through: splitter, parser, stop strings."""
    real = tokenizer_of(kind)
    for body in answers(real):
        counting = Counting(real)
        tokenizer: Any = counting
        if kind == "harmony":
            header = real.encode_trusted("<|channel|>final<|message|>")
            splitter: Any = HarmonySplitter(tokenizer, ())
        else:
            header, splitter = [], PlainSplitter(tokenizer, True)
        # Special ones are not looked at: were they there, a half of ids at random could have many fewer of them.
        ids = [*header, *(token_id for token_id in body if token_id not in real.special_ids)]
        params = SamplingParams(max_tokens=LENGTH + 10, stop=stop)
        choice = Choice(0, Submit(request_id="x", prompt_token_ids=[1], params=params), splitter)
        halves, text = [], []
        for place, token_id in enumerate(ids):
            if place in (0, len(ids) // 2):
                halves.append(counting.ids)
            text += choice.feed(RequestOutput(request_id="x", token_ids=[token_id])).texts
        first, second = halves[1] - halves[0], counting.ids - halves[1]
        assert second <= 2 * (len(ids) - len(ids) // 2)
        assert second <= first + 20
        assert choice.finish_reason is None
        assert "".join(text)
