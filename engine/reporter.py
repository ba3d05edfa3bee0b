"""What a rank says beside its outputs: Hello, Ready, Failure, and a heartbeat each second. A thread and a socket of its

own, so that a rank deep in a long step still beats. Enters: messages. Leaves: the same, in order, at the front end.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from .channel import RankSocket
from .messages import Failure, FromEngine, RankReport

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0


class Reporter:
    """One per rank. `counters` may be set once the rank has them; until then a beat is bare."""

    def __init__(self, address: str, rank: int, beat_seconds: float = BEAT_SECONDS) -> None:
        self.counters: Callable[[], RankReport] | None = None
        self._rank = rank
        self._beat = beat_seconds
        self._queue: queue.SimpleQueue[FromEngine | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(address,), name="reporter", daemon=True)
        self._thread.start()

    def send(self, message: FromEngine) -> None:
        """Any thread may call this."""
        self._queue.put(message)

    def fail(self, message: str, symptom: bool = False) -> None:
        """Say why this rank ends. One line: what a log needs more belongs into the log."""
        self.send(Failure(self._rank, " ".join(message.split())[:2000], symptom))

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Let everything that was said leave, then end."""
        self._queue.put(None)
        self._thread.join(timeout_seconds)

    def _run(self, address: str) -> None:
        socket = RankSocket(address, f"beat-{self._rank}")
        try:
            while True:
                try:
                    message = self._queue.get(timeout=self._beat)
                except queue.Empty:
                    message = self._report()
                if message is None:
                    return
                socket.send(message)
        finally:
            socket.close()

    def _report(self) -> RankReport:
        if self.counters is not None:
            try:
                return self.counters()
            except Exception:  # figures are no reason to stop beating, which would end the run
                log.exception("rank %d: reading the counters failed; it reports none from now on", self._rank)
                self.counters = None
        return RankReport(rank=self._rank)
