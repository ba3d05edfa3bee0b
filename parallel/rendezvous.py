"""A few words between ranks through the launcher's key-value store: before there are groups, and when their deadline

would be too short, as while weights load. Enters and leaves: short strings, by key.
"""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

from .collectives import RankLost

LOADING_SECONDS = 3600.0  # how much sooner than the last rank the first may have its weights


class Rendezvous:
    """The store that torchrun's environment names (MASTER_ADDR, MASTER_PORT), under a prefix of our own.

    Raises RankLost when the store is not there within `timeout_seconds`.
    """

    def __init__(self, timeout_seconds: float = 60.0) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        try:
            store, self._rank, self._world_size = next(dist.rendezvous("env://", timeout=timeout))
        except (RuntimeError, ValueError) as error:
            raise RankLost(f"the launcher's store does not answer: {_first_line(error)}") from error
        self._store = dist.PrefixStore("yardmaster", store)

    def publish(self, key: str, value: str) -> None:
        self._store.set(key, value)

    def look_up(self, key: str, timeout_seconds: float) -> str:
        """Wait for a value. Raises RankLost when none comes."""
        try:
            self._store.wait([key], timedelta(seconds=timeout_seconds))
            return self._store.get(key).decode()
        except RuntimeError as error:
            raise RankLost(f"no rank published {key!r} within {timeout_seconds:.0f} s") from error

    def meet(self, key: str, timeout_seconds: float = LOADING_SECONDS) -> None:
        """Return when every rank has called this with `key`. Raises RankLost."""
        self.publish(f"{key}/{self._rank}", "here")
        for rank in range(self._world_size):
            self.look_up(f"{key}/{rank}", timeout_seconds)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
