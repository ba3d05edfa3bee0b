from __future__ import annotations

import math

import pytest
import torch

from yardmaster.kernels.reference import experts as kernels
from yardmaster.kernels.reference.experts import moe_experts, moe_experts_mxfp4, swiglu
from yardmaster.kernels.reference.mxfp4 import unpack

LIMIT, ALPHA = 1.5, 1.702


def oracle(rows, counts, gate_up, gate_up_bias, down, down_bias):  # type: ignore[no-untyped-def]
    """float64, a row at a time, gate and up taken apart by hand."""
    out, start = [], 0
    for e, count in enumerate(counts):
        for row in rows[start : start + count].double():
            g = gate_up[e].double() @ row + gate_up_bias[e].double()
            hidden = []
            for gate, up in g.view(-1, 2).tolist():
                gate, up = min(gate, LIMIT), max(-LIMIT, min(up, LIMIT))
                hidden.append((up + 1) * gate / (1 + math.exp(-ALPHA * gate)))
            y = down[e].double() @ torch.tensor(hidden, dtype=torch.float64)
            out.append(y if down_bias is None else y + down_bias[e].double())
        start += count
    return torch.stack(out) if out else rows.double()


def draw(counts: list[int], hidden: int, width: int, dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    e = len(counts)
    shapes = (e, 2 * width, hidden), (e, 2 * width), (e, hidden, width), (e, hidden)
    return torch.randn(sum(counts), hidden), *(torch.randn(*shape).to(dtype) for shape in shapes)


COUNTS = [[3], [0, 5, 1, 0], [0, 0], [], [2, 7, 1]]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
def test_each_row_meets_its_own_expert(counts: list[int], stored: torch.dtype, biased: bool) -> None:
    rows, gate_up, gate_up_bias, down, down_bias = draw(counts, 5, 7, stored)
    last = down_bias if biased else None
    y = moe_experts(
        rows, torch.tensor(counts, dtype=torch.int64), gate_up, gate_up_bias, down, last, limit=LIMIT, alpha=ALPHA
    )
    assert y.dtype == torch.float32
    torch.testing.assert_close(
        y.double(), oracle(rows, counts, gate_up, gate_up_bias, down, last), rtol=1e-4, atol=1e-4
    )


def test_an_expert_of_no_width_gives_its_bias() -> None:
    rows, gate_up, gate_up_bias, down, down_bias = draw([2, 1], 5, 0)
    y = moe_experts(rows, torch.tensor([2, 1]), gate_up, gate_up_bias, down, down_bias, limit=LIMIT, alpha=ALPHA)
    assert torch.equal(y, down_bias[[0, 0, 1]])


@pytest.mark.parametrize("counts", COUNTS)
def test_packed_experts_are_the_unpacked_ones(counts: list[int]) -> None:
    e, hidden, width = len(counts), 64, 32
    rows, _, gate_up_bias, _, down_bias = draw(counts, hidden, width)
    byte = lambda *shape: torch.randint(256, shape, dtype=torch.uint8)  # noqa: E731
    scale = lambda *shape: torch.randint(122, 127, shape, dtype=torch.uint8)  # noqa: E731
    gate_up = byte(e, 2 * width, hidden // 32, 16), scale(e, 2 * width, hidden // 32)
    down = byte(e, hidden, width // 32, 16), scale(e, hidden, width // 32)
    y = moe_experts_mxfp4(
        rows,
        torch.tensor(counts, dtype=torch.int64),
        *gate_up,
        gate_up_bias,
        *down,
        down_bias,
        limit=LIMIT,
        alpha=ALPHA,
    )
    dense = [unpack(*matrix, torch.float64) for matrix in (gate_up, down)]
    want = oracle(rows, counts, dense[0], gate_up_bias, dense[1], down_bias)
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("counts", [[0, 5, 1, 0], [2, 7, 1], [0, 0, 0]])
def test_the_grouped_launch_is_the_loop(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs in bfloat16, here on the CPU; also: no host synchronisation hides in it."""
    rows, *weights = draw(counts, 16, 8, torch.bfloat16)
    rows, counts_e = rows.bfloat16(), torch.tensor(counts)
    loop = moe_experts(rows, counts_e, *weights, limit=LIMIT, alpha=ALPHA)
    monkeypatch.setattr(kernels, "_grouped_mm_takes", lambda *_: True)
    monkeypatch.setattr(kernels, "_each", None)
    grouped = moe_experts(rows, counts_e, *weights, limit=LIMIT, alpha=ALPHA)
    torch.testing.assert_close(grouped, loop, rtol=5e-2, atol=5e-1)
    torch.testing.assert_close(grouped.double(), oracle(rows, counts, *weights), rtol=5e-2, atol=5e-1)


def test_swiglu_clamps_the_gate_from_above_alone() -> None:
    x = torch.tensor([[9.0, 9.0, -9.0, -9.0, 0.5, 0.25]])
    want = [(1 + LIMIT) * LIMIT / (1 + math.exp(-ALPHA * LIMIT)), (1 - LIMIT) * -9 / (1 + math.exp(ALPHA * 9))]
    want.append(1.25 * 0.5 / (1 + math.exp(-ALPHA * 0.5)))
    torch.testing.assert_close(swiglu(x, LIMIT, ALPHA), torch.tensor([want]))
