"""The GPU benchmark's own arithmetic on the CPU: what it calls an error, and that the peers compute the same thing."""

from __future__ import annotations

import pytest
import torch

from yardmaster.bench import peers
from yardmaster.bench.gpu_moe import Bench
from yardmaster.bench.gpu_shapes import SHAPES, Shape
from yardmaster.kernels.glu import Glu

TINY = [
    Shape("packed", 96, 64, 8, 3, True, Glu(7.0, 1.702, 1.0)),
    Shape("plain", 96, 64, 8, 3, False, Glu(7.0, 1.702, 1.0)),
    Shape("silu", 96, 64, 8, 3, False, Glu()),
]


@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
def test_the_error_is_one_of_rounding_and_sees_a_wrong_weight(shape: Shape) -> None:
    bench = Bench(shape, 2, "cpu")
    assert bench.error(13) < 2e-2
    name = "down_proj_scales" if shape.packed else "down_proj"
    bench.weights[name].copy_(bench.weights[name].flip(0))
    assert bench.error(13) > 0.1


@torch.inference_mode()
@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
def test_peers_that_are_here_agree(shape: Shape) -> None:
    bench = Bench(shape, 1, "cpu")
    asked = 0
    for make in peers.PEERS.values():
        try:
            experts = make(shape, bench.weights)
        except peers.Absent:
            continue
        assert peers.agreement(bench, experts) < 2e-2
        asked += 1
    assert asked >= 1


def test_floors_are_those_of_bytes_and_operations() -> None:
    """Counted by hand for 3.0 TB/s and 798 TFLOP/s."""
    small, large = SHAPES["gpt-oss-20b"], SHAPES["gpt-oss-120b"]
    assert small.floor_seconds(1, 4, 3.0e12, 798e12) == pytest.approx(17.7e-6, rel=0.01)
    assert small.floor_seconds(128, 32, 3.0e12, 798e12) == pytest.approx(144e-6, rel=0.01)
    assert large.floor_seconds(8, 28.7, 3.0e12, 798e12) == pytest.approx(127e-6, rel=0.01)
    assert large.floor_seconds(8192, 128, 3.0e12, 798e12) == pytest.approx(2044e-6, rel=0.01)
    assert small.goal(1) == (0.50, 0.65)
    assert small.goal(2) == small.goal(8) == (0.70, 0.82)
    assert small.goal(4096) == (0.45, 0.60)
