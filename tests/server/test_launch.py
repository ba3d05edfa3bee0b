"""The launcher's own end: what the agent's signal handlers leave behind must not become a traceback."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, signal, sys
from torch.distributed.elastic.multiprocessing.api import _terminate_process_handler
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api
from yardmaster.server import launch

def elastic_launch(config, command):
    def run(*arguments):
        signal.signal(signal.SIGTERM, _terminate_process_handler)
        failure = ProcessFailure(local_rank=0, pid=7, exitcode=-9, error_file="")
        raise ChildFailedError("worker", {0: failure})
    return run

class Socket:
    def __init__(self, address, name): ...
    def send(self, message):
        print(message.message, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)  # the front end is quick
    def close(self): ...

api.elastic_launch = elastic_launch
launch.RankSocket = Socket
sys.exit(launch.main(["1", "ipc:///nowhere", "true"]))
"""


def test_a_signal_while_the_end_is_reported() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,  # stays open: its end would be the front end's
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        out, err = process.stdout.read(), process.stderr.read()
    assert err == ""
    assert out.startswith("rank 0 (process 7) was killed by SIGKILL")
    assert process.returncode == 1
