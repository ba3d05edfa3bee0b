"""Which pairs of a token and an expert are one expert's, without sorting: what a program of few pairs finds by itself.

All keys are looked at once, and an expert's pairs kept as bits: a number, and so in every thread of every warp, without
a barrier. For up to WORDS * 64 pairs.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pairs_of(keys, key, pairs, experts, WORDS: tl.constexpr):
    """The pairs of expert `key`, a bit each in so many uint64; none for the key `experts` and what is no key."""
    mine = (_word(keys, key, 0, pairs, experts),)  # and so on: the compiler knows no lists, and no star
    for word in tl.static_range(1, WORDS):
        mine = mine + (_word(keys, key, word * 64, pairs, experts),)  # type: ignore[assignment]  # noqa: RUF005
    return mine


@triton.jit
def _word(keys, key, first, pairs, experts):
    # Two loads of 32: each warp has all of both, and adds up by itself.
    pair_P = tl.arange(0, 32)
    low_P = tl.load(keys + first + pair_P, mask=first + pair_P < pairs, other=-1)
    high_P = tl.load(keys + first + 32 + pair_P, mask=first + 32 + pair_P < pairs, other=-1)
    bit_P = tl.full((32,), 1, tl.uint64) << pair_P.to(tl.uint64)
    none_P = tl.zeros((32,), dtype=tl.uint64)
    bits = tl.sum(tl.where(low_P == key, bit_P, none_P) | tl.where(high_P == key, bit_P << 32, none_P), 0)
    return tl.where((key >= 0) & (key < experts), bits, tl.zeros_like(bits))


@triton.jit
def count_pairs(mine, WORDS: tl.constexpr, WIDE: tl.constexpr):
    """How many pairs there are in all."""
    count = 0
    for word in tl.static_range(WORDS):
        count += _ones(mine[word].to(tl.uint32), WIDE) + _ones((mine[word] >> 32).to(tl.uint32), WIDE)
    return count


@triton.jit
def any_before(mine, slot, WORDS: tl.constexpr):
    """Whether there is a pair before this one."""
    one = tl.full((), 1, tl.uint64)
    found = False
    for word in tl.static_range(WORDS):
        within = tl.minimum(tl.maximum(slot - word * 64, 0), 63).to(tl.uint64)
        before = mine[word] & ((one << within) - 1)
        before = tl.where(slot >= word * 64 + 64, mine[word], before)
        found = found | (before != 0)
    return found


@triton.jit
def nth_pair(mine, nth, WORDS: tl.constexpr, WIDE: tl.constexpr):
    """The nth pair, counted from 0. Behind the last one, some pair below WORDS * 64."""
    bits = mine[0]
    first = nth * 0
    for word in tl.static_range(1, WORDS):
        before = _ones(mine[word - 1].to(tl.uint32), WIDE) + _ones((mine[word - 1] >> 32).to(tl.uint32), WIDE)
        behind = (first == word * 64 - 64) & (nth >= before)
        nth = tl.where(behind, nth - before, nth)
        first = tl.where(behind, word * 64, first)
        bits = tl.where(behind, mine[word], bits)
    return first + _place_of_one(bits, nth, WIDE)


@triton.jit
def _ones(word, WIDE: tl.constexpr):
    """How many bits of a uint32 are set."""
    if not WIDE:
        return tl.inline_asm_elementwise("popc.b32 $0, $1;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1)
    word -= (word >> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word += word >> 8
    return ((word + (word >> 16)) & 63).to(tl.int32)


@triton.jit
def _place_of_one(bits, nth, WIDE: tl.constexpr):
    """Where the nth set bit is, counted from 0: halves of halves. Behind the last one, some place below 64."""
    low = bits.to(tl.uint32)
    below = _ones(low, WIDE)
    upper = nth >= below
    word = tl.where(upper, (bits >> 32).to(tl.uint32), low)
    nth = tl.where(upper, nth - below, nth)
    place = tl.where(upper, 32, 0)
    for power in tl.static_range(4, -1, -1):
        size = 1 << power
        below = _ones(word & ((1 << size) - 1), WIDE)
        behind = nth >= below
        word = tl.where(behind, word >> size, word)
        nth = tl.where(behind, nth - below, nth)
        place = tl.where(behind, place + size, place)
    return place
