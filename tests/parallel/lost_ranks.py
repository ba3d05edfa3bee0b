"""Run by test_collectives.py as three ranks of which one is lost: HOW is "dies", "sleeps" or "never comes"."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch

from yardmaster.parallel.collectives import RankLost
from yardmaster.parallel.dispatch.build import build
from yardmaster.parallel.layout import ParallelConfig
from yardmaster.parallel.mesh import Mesh

LAYOUT = ParallelConfig(1, 3)
SLEEP = 2.5  # seconds
DEADLINE = {"dies": 60.0, "sleeps": 60.0, "never comes": 1.0}  # of meeting, and of what comes after where none sleeps


def main() -> list[object]:
    """(seconds until RankLost, its message), or ("", …) on the one that is lost."""
    how, lost = os.environ["HOW"], os.environ["RANK"] == "2"
    start = time.monotonic()
    try:
        if how == "never comes" and lost:
            os._exit(3)
        mesh = Mesh.join(LAYOUT, "cpu", timeout=DEADLINE[how])
        if how == "sleeps":
            mesh.world.all_gather_counts(0)
            mesh = Mesh.over(LAYOUT, mesh.device, timedelta(seconds=SLEEP / 2.5))
        dispatcher = build(mesh, 6)
        x, ids, weights = torch.randn(4, 8), torch.tensor([[0, 3], [5, 1], [2, 4], [1, 5]]), torch.ones(4, 2)
        for step in range(1000):
            if lost and step == 3:
                if how == "dies":
                    os._exit(3)
                time.sleep(SLEEP)
                return ["", 0.0]
            start = time.monotonic()
            dispatched = dispatcher.dispatch(x, ids, weights)
            dispatcher.combine(dispatched.x_MD[dispatched.token_R], dispatched.handle)
        return ["never noticed", 0.0]
    except RankLost as error:
        return [str(error), time.monotonic() - start]
