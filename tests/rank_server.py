"""A process that has torch imported and forks itself into ranks, so that a test with four of them starts at once.

Run by conftest.py. Enters on stdin, a line of JSON a job: script, world, seconds, environment, out (a folder). Leaves:
in the folder `{rank}.json` with what the script's `main()` returned or its traceback, and on stdout a line: the
seconds after which each rank ended, null for one that had to be killed.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import yardmaster.parallel.dispatch.build  # noqa: F401
from yardmaster.tests.free_port import free_port

torch.testing.assert_close(torch.zeros(1), torch.zeros(1))  # its first call imports half of torch


def run(job: dict[str, Any]) -> list[float | None]:
    shared = {"WORLD_SIZE": str(job["world"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    start = time.monotonic()
    alive = {}
    for rank in range(job["world"]):
        child = os.fork()
        if not child:
            os.environ.update({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), **job["environment"]})
            be_rank(job["script"], Path(job["out"]) / f"{rank}.json")
        alive[child] = rank
    ended: list[float | None] = [None] * job["world"]
    while alive:
        late = time.monotonic() - start > job["seconds"]
        for child, rank in list(alive.items()):
            if late:
                os.kill(child, signal.SIGKILL)
            if os.waitpid(child, 0 if late else os.WNOHANG)[0]:
                del alive[child]
                ended[rank] = None if late else time.monotonic() - start
        time.sleep(0.01)
    return ended


def be_rank(script: str, out: Path) -> None:
    """Run the script's `main` in this child and end it, whatever happens."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)  # stdout belongs to the server's answers
    try:
        outcome = {"value": runpy.run_path(script)["main"]()}
    except BaseException:
        outcome = {"error": traceback.format_exc()}
    out.write_text(json.dumps(outcome))
    os._exit(0)  # no exit handlers: they are the server's


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
