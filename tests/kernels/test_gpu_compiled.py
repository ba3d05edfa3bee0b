"""What no interpreter can see: the compiled code of the MXFP4 product, made for a Hopper GPU without having one.

In a process of its own, for in this one Triton may be interpreting.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
import dataclasses, json, torch
from yardmaster.bench.compiled import SHAPES, experts
from yardmaster.kernels.gpu.compiled import compile_launch, record
from yardmaster.kernels.gpu.experts_plan import Plan, Tile

few, many = Tile(64, 8, 128, 2, 4), Tile(128, 64, 64, 4, 4)
found = []
for plan in (Plan(True, few, few), Plan(False, many, many)):
    launches = record(experts(SHAPES["gpt-oss-20b"], "mxfp4", 8, plan))
    launch = next(one for one in launches if "GATED" in one.arguments)
    made = compile_launch(launch)
    per_value = made.loop.total() * 32 * launch.options["num_warps"]
    per_value /= launch.arguments["BLOCK_N"] * launch.arguments["BLOCK_K"]
    widest = max(made.load_widths)
    copies = [op for op in made.loop if op.startswith("LDGSTS")]
    plain = [op for op in made.loop if op.startswith("LDG.")]
    found.append([made.matrix, made.spills, made.moved, made.registers, per_value, widest, copies, plain])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> list[list]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("which", "matrix", "most"), [(0, "HMMA", 2.8), (1, "HGMMA", 3.8)], ids=["few", "many"])
def test_weights_go_from_memory_into_the_matrix_instruction(found: list, which: int, matrix: str, most: float) -> None:
    got_matrix, spills, moved, registers, per_value, widest, copies, plain = found[which]
    assert got_matrix == matrix
    assert (spills, moved) == (0, 0)  # neither local memory, nor shuffles or stores to shared memory in the loop
    assert registers <= 255
    assert widest == 128
    assert any("128" in op for op in copies)
    assert not plain  # every load of the loop is pipelined, the scales' too
    assert per_value <= most  # of the 5.1 that issue in the time in which memory brings a value
