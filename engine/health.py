"""Whether the ranks still live, and when they do not, whom to believe about it. Pure: events enter, a verdict leaves.

When a rank dies, the first to speak are often the others, who only lost it. So a sign of trouble starts a short wait
for a better explanation: the launcher's, who saw a process end by a signal, or the silence of one rank among many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from enum import IntEnum

SILENCE_SECONDS = 30.0  # a rank beats every second, from a thread of its own, however long its step
QUIET_SECONDS = 2.5  # once there is trouble, a rank that has been still for so long is taken for its cause
PATIENCE_SECONDS = 3.0  # how long after the first sign of trouble a better explanation may come
_SOON_SECONDS = 0.5  # for the words of a rank that left by itself, when the launcher was faster
_STALL_SECONDS = 5.0


class Cause(IntEnum):
    """Explanations of a death, the better the higher."""

    SYMPTOM = 0  # a rank lost its peers
    LAUNCHER_ENDED = 1
    EXIT_CODE = 2  # the launcher: which rank left first
    SAID = 3  # a rank's own word
    KILLED = 4  # the launcher: which rank a signal ended


class Health:
    """Of the ranks 0 … `world_size` - 1; those not heard yet are not missed. `clock` gives monotonic seconds."""

    def __init__(self, world_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.suspicion: str | None = None  # the best explanation so far, as soon as there is any trouble
        self._world_size = world_size
        self._clock = clock
        self._heard: dict[int, float] = {}
        self._failed: set[int] = set()
        self._cause = Cause.SYMPTOM
        self._verdict_at = float("inf")
        self._judged = clock()

    def heard(self, rank: int) -> None:
        self._heard[rank] = self._clock()

    def failed(self, rank: int, reason: str, symptom: bool) -> None:
        """A rank says that it ends, and why; `symptom`: because it lost others."""
        self._failed.add(rank)
        self.suspect(Cause.SYMPTOM if symptom else Cause.SAID, f"rank {rank}: {reason}")

    def suspect(self, cause: Cause, reason: str) -> None:
        if self.suspicion is None or cause > self._cause:
            self._cause, self.suspicion = cause, reason
        wait = 0.0 if cause >= Cause.SAID else _SOON_SECONDS if cause is Cause.EXIT_CODE else PATIENCE_SECONDS
        self._verdict_at = min(self._verdict_at, self._clock() + wait)

    def verdict(self) -> str | None:
        """Why the engine is dead; None as long as it may live. To be asked several times a second."""
        now = self._clock()
        if now - self._judged > _STALL_SECONDS:  # this process itself stood still: their silence proves nothing
            self._heard = dict.fromkeys(self._heard, now)
        self._judged = now
        if now >= self._verdict_at and self.suspicion is not None:
            silent = self._silent(now, QUIET_SECONDS)
            if self._cause < Cause.EXIT_CODE and 0 < len(silent) < self._world_size:
                return f"{_names(silent)} died or hung without a word ({self.suspicion})"
            return self.suspicion
        if silent := self._silent(now, SILENCE_SECONDS):
            return f"no sign of life from {_names(silent)} for {SILENCE_SECONDS:.0f} s"
        return None

    def _silent(self, now: float, seconds: float) -> list[int]:
        return sorted(rank for rank, heard in self._heard.items() if rank not in self._failed and now - heard > seconds)


def _names(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
