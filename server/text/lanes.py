"""A bound on work that a request can make slow: most of it is over at once, and what is not must not hold that up."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 20.0  # seconds that work waits for its turn
QUICK_SECONDS = 0.25  # of a processor's time; honest work takes milliseconds
LONGEST = 1.0  # seconds on the wall for those
SLOW_NICENESS = 10


class Busy(TimeoutError):
    """Too much of such work at once; later it may do."""


class Lanes:
    """`quick` places for work that is over soon, `slow` for what turns out to be none of that. Thread-safe.

    However many requests are made to be slow, each holds a quick place for `QUICK_SECONDS`.
    """

    def __init__(self, quick: int, slow: int) -> None:
        self._quick = threading.BoundedSemaphore(quick)
        self._slow = threading.BoundedSemaphore(slow)

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Raises Busy when none gets free."""
        if not self._quick.acquire(timeout=PATIENCE):
            raise Busy
        place = Place(self._quick, self._slow)
        try:
            yield place
        finally:
            place.held.release()


class Place:
    def __init__(self, quick: threading.BoundedSemaphore, slow: threading.BoundedSemaphore) -> None:
        self.held = quick
        self._slow = slow

    @property
    def slow(self) -> bool:
        return self.held is self._slow

    def await_answer(self, connection: socket.socket, pid: int) -> None:
        """Until process `pid` answers, or has worked for `QUICK_SECONDS`; then it goes on in a slow place, behind all
        other processes, for good. Raises Busy where there is none: the process still works, and is of no more use.
        """
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        began, limit = _worked(pid), time.monotonic() + LONGEST
        while not self.slow:
            if poll.poll(QUICK_SECONDS * 1000):
                return
            if _worked(pid) - began < QUICK_SECONDS and time.monotonic() < limit:
                continue  # the machine is at work on something else
            if not self._slow.acquire(blocking=False):
                raise Busy
            self.held.release()
            self.held = self._slow
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, SLOW_NICENESS)


def _worked(pid: int) -> float:
    """Seconds of a processor's time; where the system does not tell, those on the wall."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic()
