"""Run by test_mesh.py as four ranks: each group says over its own collectives who is in it."""

from __future__ import annotations

import json
import os
from datetime import timedelta

from yardmaster.parallel.layout import ParallelConfig
from yardmaster.parallel.mesh import Mesh


def main() -> list[dict[str, list[int]]]:
    mesh = Mesh.join(ParallelConfig(1, 4), "cpu")
    answers = []
    for sizes in json.loads(os.environ["LAYOUTS"]):
        mesh = Mesh.over(ParallelConfig(*sizes), mesh.device, timedelta(seconds=20))
        answer = {}
        for name in ("world", "tp", "ep", "etp", "control", "leaders"):
            group = getattr(mesh, name)
            answer[name] = [rank for (rank,) in group.all_gather_counts(mesh.rank)]
            assert group.ranks[group.index] == mesh.rank
            assert list(group.ranks) == answer[name]
            assert group.broadcast_bytes(bytes([mesh.rank])) == bytes([group.ranks[0]])
        assert mesh.leader == (mesh.rank in mesh.layout.leaders())
        answers.append(answer)
    mesh.close()
    return answers
