"""The parent's side of render_child.py: starts it, asks it, ends it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from typing import Any

from .frames import receive, send
from .lanes import Busy, Place

START_SECONDS = 30.0  # to import jinja2 and compile, on a busy machine
GRACE_SECONDS = 1.0  # beyond the child's own alarm
MAX_BYTES = 1 << 30  # of address space


class RenderError(ValueError):
    """One line that says what the template did."""


class RenderDied(RenderError):
    """The process has gone, and not for its time limit; a new one may do."""


class RenderProcess:
    """One child with one checkpoint's templates. Not thread-safe. After a time-out or a crash it is `dead`."""

    def __init__(self, sources: Mapping[str, str], secrets: Mapping[str, str], time_limit: float) -> None:
        """Starts the child and compiles `sources` there. Raises RenderError when one is malformed."""
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._limit = time_limit
        package = (__package__ or "").removesuffix(".")
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{package}.render_child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a traceback there could show prompt text
                # None of the server's secrets: what breaks out of the sandbox finds an empty house.
                env={"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
                | {name: os.environ[name] for name in ("TZ", "LD_LIBRARY_PATH") if name in os.environ},
            )
        self._pid = process.pid
        self._close = weakref.finalize(self, _end, process, ours)
        start = {"sources": dict(sources), "secrets": dict(secrets), "seconds": time_limit, "bytes": MAX_BYTES}
        try:
            self._ask(json.dumps(start).encode(), START_SECONDS)
        except RenderDied:
            raise RenderError("the process that renders chat templates did not start or could not compile it") from None
        except RenderError:
            self.close()
            raise

    @property
    def dead(self) -> bool:
        return not self._close.alive

    def render(self, name: str, variables: str, place: Place) -> str:
        """Raises RenderError, and Busy where it takes long and others do so already. `variables`: a JSON object."""
        request = f'{{"name": {json.dumps(name)}, "variables": {variables}}}'
        text: str = self._ask(request.encode(), self._limit, place)["text"]
        return text

    def close(self) -> None:
        self._close()

    def _ask(self, data: bytes, limit: float, place: Place | None = None) -> dict[str, Any]:
        began = time.monotonic()
        try:
            self._socket.settimeout(limit + GRACE_SECONDS)
            send(self._socket, data)
            if place is not None:
                place.await_answer(self._socket, self._pid)
            answer: dict[str, Any] = json.loads(receive(self._socket))
        except Busy:
            self.close()
            raise
        except (OSError, EOFError, ValueError):
            self.close()
            if time.monotonic() - began >= limit:
                raise RenderError(f"the chat template ran longer than {limit:g} s and was stopped") from None
            raise RenderDied("the chat template's process died; its memory limit may have ended it") from None
        if "error" in answer:
            raise RenderError(" ".join(answer["error"].split())[:500])
        return answer


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()
