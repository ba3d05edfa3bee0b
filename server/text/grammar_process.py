"""The parent's side of grammar_child.py: checks in bounded time, by as many processes as are asked at once."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import time
import weakref

from .constraint import ConstraintError, TookLong
from .frames import receive, send
from .lanes import Busy, Lanes, Place

CHECK_SECONDS = 5.0  # the largest that are taken need a twentieth of it
QUICK, SLOW = 4, 2  # that are checked at once, each in a process of its own
START_SECONDS = 30.0  # to import, on a busy machine
GRACE_SECONDS = 1.0  # beyond the child's own alarm
MAX_BYTES = 2 << 30  # of address space


class GrammarChecks:
    """Thread-safe; the processes live as long as this object, but for those that were stopped."""

    def __init__(self, seconds: float = CHECK_SECONDS) -> None:
        self._seconds = seconds
        self._lanes = Lanes(QUICK, SLOW)
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def __call__(self, grammar: str) -> tuple[bool, list[str]]:
        """What LLMatcher.validate_grammar_with_warnings says. Raises ConstraintError when it takes too much, and Busy

        when it takes long and others do so already.
        """
        with self._lanes.place() as place:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                process = _Process(self._seconds)
            answer = process.check(grammar, place)
            if place.slow:
                process.close()
            else:
                self._idle.put(process)
        return answer


class _Process:
    def __init__(self, seconds: float) -> None:
        ours, theirs = socket.socketpair()
        self._socket, self._seconds = ours, seconds
        package = (__package__ or "").removesuffix(".")
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", f"{package}.grammar_child"),
                    *(str(theirs.fileno()), str(seconds), str(MAX_BYTES)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a panic there could show what was asked
                env={"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
                | {name: os.environ[name] for name in ("TZ", "LD_LIBRARY_PATH") if name in os.environ},
            )
        self._pid = process.pid
        self.close = weakref.finalize(self, _end, process, ours)
        try:
            ours.settimeout(START_SECONDS)
            receive(ours)
        except (OSError, EOFError):
            self.close()
            raise RuntimeError("the process that checks grammars did not start") from None

    def check(self, grammar: str, place: Place) -> tuple[bool, list[str]]:
        began = time.monotonic()
        try:
            self._socket.settimeout(self._seconds + GRACE_SECONDS)
            send(self._socket, json.dumps(grammar).encode())
            place.await_answer(self._socket, self._pid)
            wrong, messages = json.loads(receive(self._socket))
        except Busy:
            self.close()
            raise
        except (OSError, EOFError, ValueError):
            self.close()
            if time.monotonic() - began >= self._seconds:
                raise TookLong(f"it takes more than {self._seconds:g} s to compile") from None
            raise ConstraintError("it is nested too deep, or takes too much memory to compile") from None
        return wrong, messages


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
