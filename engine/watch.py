"""A rank's way out when nothing else works: no process of ours outlives those it works for.

A rank may hang inside a collective, where no Python signal handler runs. So a thread watches: that the parent (the
launcher's agent) is still there, that the front end this rank started is still there, and for SIGTERM, after which the
rank has a little time to leave by itself (the front end then shuts the engine down in order) before it is ended.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

GRACE_SECONDS = 4.0  # below the launcher's own patience, and well inside the ten seconds a dead rank may cost
DRAIN_SECONDS = 24.0  # under torchrun, which itself waits for 30: answers may end as long as steps go on
PARENT_VARIABLE = "YARDMASTER_AGENT_PID"  # the launcher, where it says so: it may be gone before this process looks
_TICK = 0.5
_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


class Watch:
    """Starts watching when made, in the main thread.

    `say(line)` is told the reason before the process ends. After SIGTERM the rank has GRACE_SECONDS, and up to `drain`
    seconds while `rounds` grows at least that often. `front` is the front end, where this rank has started it.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        front: subprocess.Popen[bytes] | None = None,
        drain: float = GRACE_SECONDS,
    ) -> None:
        self.rounds: Callable[[], int] = lambda: 0
        self._say = say
        self._front = front
        self._drain = drain
        self._parent = int(os.environ.get(PARENT_VARIABLE) or os.getppid())
        if sys.platform == "linux":  # so that even a stopped process goes; elsewhere this thread alone looks
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._done = False
        # The C-level handler writes a byte here whatever the main thread is doing; a Python handler must exist for it.
        self._wake, end = socket.socketpair()
        end.setblocking(False)
        self._end = end
        self._former_fd = signal.set_wakeup_fd(end.fileno(), warn_on_full_buffer=False)
        self._former = {number: signal.signal(number, _noted) for number in (signal.SIGTERM, signal.SIGINT)}
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The rank leaves in order: watch no longer."""
        self._done = True
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._end.close()
        self._thread.join(2 * _TICK)
        self._wake.close()

    def _run(self) -> None:
        told = stuck_since = None
        rounds = 0
        while not self._done:
            readable, _, _ = select.select([self._wake], [], [], _TICK)
            if self._done:
                return
            now = time.monotonic()
            if readable and self._wake.recv(64) and told is None:
                told = stuck_since = now
                rounds = self.rounds()
                if self._front is not None and self._front.poll() is None:
                    self._front.send_signal(signal.SIGTERM)
            if told is not None and stuck_since is not None:
                if self.rounds() != rounds:
                    rounds, stuck_since = self.rounds(), now
                if now - told > self._drain or now - stuck_since > GRACE_SECONDS:
                    self._leave("was told to stop (SIGTERM)", 128 + signal.SIGTERM)
            if os.getppid() != self._parent:
                self._leave("lost the launcher that started it", 1)
            if told is None and self._front is not None and self._front.poll() is not None:
                self._leave(f"lost the front end, which {ending(self._front.returncode)}", 1)

    def _leave(self, reason: str, code: int) -> None:
        self._say(reason)
        os._exit(code)  # the main thread may never come back from a collective


def ending(code: int) -> str:
    """How a process ended, in words, from its return code as subprocess gives it."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _noted(number: int, frame: object) -> None:
    """The watch thread has the byte; nothing is left to do here."""
