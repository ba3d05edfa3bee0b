"""A limit per minute as a token bucket: a minute's worth at most, refilled all the time."""

from __future__ import annotations

from collections.abc import Callable


class Bucket:
    """Holds `per_minute` at most and begins full. `clock` gives monotonic seconds.

    What was taken can be corrected later, once the true amount is known: `spend` may bring the level below zero, and
    then nothing can be taken until time has paid for it.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.capacity = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._seen = clock()

    def take(self, amount: float) -> bool:
        """Take `amount` if it is there."""
        if self._refilled() < amount:
            return False
        self._level -= amount
        return True

    def spares(self, amount: float, taken: float = 0) -> bool:
        """Half would be left after `amount`, or it is full. `taken` is not counted as missing."""
        return self._refilled() + taken >= min(self.capacity, taken + amount + self.capacity / 2)

    def spend(self, amount: float) -> None:
        """Take `amount` whether it is there or not; less than zero gives back."""
        self._level = min(self._refilled() - amount, self.capacity)

    def resize(self, per_minute: int) -> None:
        """A new limit; what is in use stays in use."""
        self._level = self._refilled() + per_minute - self.capacity
        self.capacity = per_minute

    def wait(self, amount: float) -> float:
        """Seconds until `amount` can be taken, if nobody else takes any; never for more than the capacity."""
        return max(0.0, amount - self._refilled()) * 60 / self.capacity

    @property
    def remaining(self) -> int:
        return max(0, int(self._refilled()))

    @property
    def reset(self) -> float:
        """Seconds until it is full."""
        return self.wait(self.capacity)

    def _refilled(self) -> float:
        now = self._clock()
        if now > self._seen:
            self._level = min(self.capacity, self._level + (now - self._seen) * self.capacity / 60)
            self._seen = now
        return self._level
