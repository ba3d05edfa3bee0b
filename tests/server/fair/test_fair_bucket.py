"""Token buckets against exact arithmetic on a clock of our own, and how a duration is worded."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from yardmaster.server.fair.bucket import Bucket
from yardmaster.server.fair.refusals import duration


class Clock:
    """Counts in 64ths of a second, so that sums are exact in floats too."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seed", range(20))
def test_against_exact_arithmetic(seed: int) -> None:
    rng, clock = random.Random(seed), Clock()
    capacity = rng.choice((1, 7, 60, 960, 100_000))
    bucket, level = Bucket(capacity, clock), Fraction(capacity)
    for _ in range(500):
        step = Fraction(rng.randrange(0, 200), 64)
        clock.now += float(step)
        level = min(Fraction(capacity), level + step * capacity / 60)
        amount = rng.randrange(0, 2 * capacity)
        match rng.randrange(5):
            case 0 | 1:
                if abs(level - amount) > 1e-6:
                    assert bucket.take(amount) == (level >= amount)
                    level -= amount if level >= amount else 0
            case 2:
                bucket.spend(amount)
                level -= amount
            case 3:
                bucket.spend(-amount)
                level = min(Fraction(capacity), level + amount)
            case 4:
                bigger = rng.choice((1, 7, 60, 960, 100_000))
                bucket.resize(bigger)
                level, capacity = level + bigger - capacity, bigger
        assert bucket.capacity == capacity
        assert bucket.remaining == pytest.approx(max(0, int(level)), abs=1)
        assert (
            bucket.wait(capacity) == bucket.reset == pytest.approx(float((capacity - level) * 60 / capacity), abs=1e-5)
        )


def test_waiting_as_long_as_said_is_enough_and_less_is_not() -> None:
    clock = Clock()
    bucket = Bucket(120, clock)
    assert bucket.take(120)
    assert not bucket.take(1)
    assert bucket.wait(1) == 0.5
    assert bucket.reset == 60
    clock.now += 0.484375
    assert not bucket.take(1)
    clock.now += 0.015625
    assert bucket.take(1)
    bucket.spend(60)  # a debt
    assert (bucket.remaining, bucket.wait(1)) == (0, 30.5)
    clock.now += 1e6
    assert bucket.remaining == 120
    clock.now -= 50  # a clock that runs back takes nothing
    assert bucket.remaining == 120


def test_durations_are_worded_as_openai_words_them() -> None:
    for seconds, text in (
        (0, "0ms"), (0.0001, "1ms"), (0.02, "20ms"), (0.9991, "1s"), (1, "1s"), (1.5, "1.5s"), (59.9999, "1m0s"),
        (6, "6s"), (360, "6m0s"), (86.4, "1m26.4s"), (3600, "1h0m0s"), (7384.25, "2h3m4.25s"),
    ):  # fmt: skip
        assert duration(seconds) == text
