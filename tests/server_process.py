"""A server in a process of its own, as tests start it: a script, a free port, and all that it prints."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yardmaster.tests.free_port import free_port


class ServerProcess:
    """`LAUNCHER SCRIPT MODEL PORT ARGUMENTS`, running."""

    def __init__(self, script: Path, model: Path, *arguments: object, launcher: Sequence[str] = ()) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*(launcher or (sys.executable,)), str(script), str(model), str(port), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        if self.process.stdout is not None:
            self.lines.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_until(self, true: Callable[[], Any], seconds: float) -> None:
        """Fails with the output when it does not come true in time, or the server has ended."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.output
            assert self.process.poll() is None, self.output
            time.sleep(0.02)
