from __future__ import annotations

from collections.abc import Callable

import pytest

from yardmaster.engine.health import PATIENCE_SECONDS, SILENCE_SECONDS, Cause, Health


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(health: Health, clock: Clock, seconds: float, beating: set[int], step: float = 0.2) -> str | None:
    """Let time pass while `beating` ranks beat; the first verdict."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        for rank in beating:
            health.heard(rank)
        if (verdict := health.verdict()) is not None:
            return verdict
    return None


@pytest.fixture
def four() -> tuple[Health, Clock]:
    clock = Clock()
    health = Health(4, clock)
    for rank in range(4):
        health.heard(rank)
    return health, clock


def test_lives_while_all_beat(four: tuple[Health, Clock]) -> None:
    health, clock = four
    assert run(health, clock, 300, {0, 1, 2, 3}) is None
    assert health.suspicion is None


def test_a_silent_rank_is_named_in_time(four: tuple[Health, Clock]) -> None:
    health, clock = four
    assert run(health, clock, SILENCE_SECONDS - 1, {0, 1, 3}) is None
    verdict = run(health, clock, 2, {0, 1, 3})
    assert verdict is not None
    assert "rank 2 " in verdict


def test_a_rank_not_heard_yet_is_not_missed() -> None:
    clock = Clock()
    health = Health(2, clock)
    health.heard(0)
    assert run(health, clock, 1000, {0}) is None


def test_silence_while_we_stood_still_proves_nothing(four: tuple[Health, Clock]) -> None:
    health, clock = four
    clock.now += 3600
    assert health.verdict() is None
    assert run(health, clock, SILENCE_SECONDS - 1, set()) is None
    assert run(health, clock, 2, set()) is not None


@pytest.mark.parametrize("dead", [0, 3])
def test_survivors_symptoms_point_at_the_one_that_said_nothing(four: tuple[Health, Clock], dead: int) -> None:
    health, clock = four
    survivors = {0, 1, 2, 3} - {dead}
    assert run(health, clock, 1, survivors) is None
    for rank in survivors:
        health.failed(rank, "lost its peers", symptom=True)
    assert health.suspicion is not None
    verdict = run(health, clock, PATIENCE_SECONDS + 0.5, set())
    assert verdict is not None
    assert verdict.startswith(f"rank {dead} died or hung")


def test_who_still_beats_is_not_blamed(four: tuple[Health, Clock]) -> None:
    health, clock = four
    health.failed(1, "lost its peers", symptom=True)
    verdict = run(health, clock, PATIENCE_SECONDS + 0.5, {0, 2, 3})
    assert verdict == "rank 1: lost its peers"


ORDERS: list[Callable[[Health], None]] = [
    lambda health: health.failed(1, "gone", symptom=True),
    lambda health: health.suspect(Cause.LAUNCHER_ENDED, "the launcher ended"),
    lambda health: health.suspect(Cause.EXIT_CODE, "rank 2 exited with code 3"),
    lambda health: health.failed(3, "no such file", symptom=False),
    lambda health: health.suspect(Cause.KILLED, "rank 2 was killed by SIGKILL"),
]


@pytest.mark.parametrize("best", range(len(ORDERS)))
@pytest.mark.parametrize("late", [False, True])
def test_the_best_explanation_wins_whenever_it_comes(best: int, late: bool) -> None:
    clock = Clock()
    health = Health(4, clock)
    order = ORDERS[: best + 1] if late else ORDERS[best::-1]
    for event in order:
        event(health)
    texts = ["rank 1: gone", "the launcher ended", "rank 2 exited with code 3", "rank 3: no such file"]
    texts.append("rank 2 was killed by SIGKILL")
    assert health.suspicion == texts[best]
    verdict = run(health, clock, PATIENCE_SECONDS + 0.5, {0})
    assert verdict == texts[best]


def test_a_certain_cause_is_believed_at_once(four: tuple[Health, Clock]) -> None:
    health, _ = four
    health.failed(2, "the file is empty", symptom=False)
    assert health.verdict() == "rank 2: the file is empty"
