from __future__ import annotations

import math

import pytest
import torch

from yardmaster.kernels.glu import Glu
from yardmaster.kernels.reference import experts as kernels
from yardmaster.kernels.reference.experts import apply_glu, moe_experts, moe_experts_fp8, moe_experts_mxfp4
from yardmaster.kernels.reference.mxfp4 import unpack

LIMIT, ALPHA = 1.5, 1.702
GLU = Glu(LIMIT, ALPHA, 1.0)


def grouped(run, rows, counts, *weights, **options):  # type: ignore[no-untyped-def]
    """A function of pairs, on rows that stand grouped by expert."""
    keys = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    return run(rows, keys[:, None], *weights, GLU, **options)[:, 0]


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
    y = grouped(moe_experts, rows, counts, gate_up, gate_up_bias, down, last)
    assert y.dtype == torch.float32
    torch.testing.assert_close(
        y.double(), oracle(rows, counts, gate_up, gate_up_bias, down, last), rtol=1e-4, atol=1e-4
    )


def test_an_expert_of_no_width_gives_its_bias() -> None:
    rows, gate_up, gate_up_bias, down, down_bias = draw([2, 1], 5, 0)
    y = grouped(moe_experts, rows, [2, 1], gate_up, gate_up_bias, down, down_bias)
    assert torch.equal(y, down_bias[[0, 0, 1]])


@pytest.mark.parametrize("counts", COUNTS)
def test_packed_experts_are_the_unpacked_ones(counts: list[int]) -> None:
    e, hidden, width = len(counts), 64, 32
    rows, _, gate_up_bias, _, down_bias = draw(counts, hidden, width)
    byte = lambda *shape: torch.randint(256, shape, dtype=torch.uint8)  # noqa: E731
    scale = lambda *shape: torch.randint(122, 127, shape, dtype=torch.uint8)  # noqa: E731
    gate_up = byte(e, 2 * width, hidden // 32, 16), scale(e, 2 * width, hidden // 32)
    down = byte(e, hidden, width // 32, 16), scale(e, hidden, width // 32)
    y = grouped(moe_experts_mxfp4, rows, counts, *gate_up, gate_up_bias, *down, down_bias)
    dense = [unpack(*matrix, torch.float64) for matrix in (gate_up, down)]
    want = oracle(rows, counts, dense[0], gate_up_bias, dense[1], down_bias)
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("counts", [[0, 5, 1, 0], [2, 7, 1], [0, 0, 0]])
def test_the_grouped_launch_is_the_loop(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs in bfloat16, here on the CPU; also: no host synchronisation hides in it."""
    rows, *weights = draw(counts, 16, 8, torch.bfloat16)
    rows = rows.bfloat16()
    loop = grouped(moe_experts, rows, counts, *weights)
    monkeypatch.setattr(kernels, "_grouped_mm_takes", lambda *_: True)
    monkeypatch.setattr(kernels, "each", None)
    launch = grouped(moe_experts, rows, counts, *weights)
    torch.testing.assert_close(launch, loop, rtol=5e-2, atol=5e-1)
    torch.testing.assert_close(launch.double(), oracle(rows, counts, *weights), rtol=5e-2, atol=5e-1)


def test_the_glu_clamps_the_gate_from_above_alone() -> None:
    x = torch.tensor([[9.0, 9.0, -9.0, -9.0, 0.5, 0.25]])
    want = [(1 + LIMIT) * LIMIT / (1 + math.exp(-ALPHA * LIMIT)), (1 - LIMIT) * -9 / (1 + math.exp(ALPHA * 9))]
    want.append(1.25 * 0.5 / (1 + math.exp(-ALPHA * 0.5)))
    torch.testing.assert_close(apply_glu(x, GLU), torch.tensor([want]))


@pytest.mark.parametrize("launch", ["loop", "grouped"])
def test_pairs_may_be_absent_and_tokens_named(launch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if launch == "grouped":
        monkeypatch.setattr(kernels, "_grouped_mm_takes", lambda *_: True)
    dtype = torch.float32 if launch == "loop" else torch.bfloat16
    _, *weights = draw([0, 0, 0], 16, 8, dtype)
    x, keys = torch.randn(5, 16).to(dtype), torch.tensor([[2, 0], [3, 1], [3, 3], [1, 2], [0, 3]])
    here = keys < 3
    got = moe_experts(x, keys, *weights, GLU)
    token_R = torch.arange(5).repeat_interleave(2)[here.flatten()]
    named = moe_experts(x, keys[here], *weights, GLU, token_R)
    want = torch.cat(
        [
            oracle(x[t, None], [int(e == i) for i in range(3)], *weights)
            for t, e in zip(token_R, keys[here], strict=True)
        ]
    )
    close = 1e-4 if launch == "loop" else 5e-2
    torch.testing.assert_close(got[here].double(), want, rtol=close, atol=10 * close)
    torch.testing.assert_close(named.double(), want, rtol=close, atol=10 * close)


@pytest.mark.parametrize(("hidden", "width"), [(8, 4), (300, 130), (128, 128)])
def test_fp8_squares_scale_gates_and_ups_apart(hidden: int, width: int) -> None:
    counts, (rows, gate_up, gate_up_bias, down, down_bias) = [2, 0, 3], draw([2, 0, 3], hidden, width)
    gate_up, down = gate_up.to(torch.float8_e4m3fn), down.to(torch.float8_e4m3fn)
    up_scales = torch.rand(3, 2, -(-width // 128), -(-hidden // 128)) + 0.1
    down_scales = torch.rand(3, -(-hidden // 128), -(-width // 128)) + 0.1
    y = grouped(moe_experts_fp8, rows, counts, gate_up, up_scales, gate_up_bias, down, down_scales, down_bias)
    wide_up, wide_down = gate_up.double(), down.double()
    for n in range(2 * width):
        for c in range(hidden):
            wide_up[:, n, c] *= up_scales[:, n % 2, n // 2 // 128, c // 128]
    for c in range(hidden):
        for n in range(width):
            wide_down[:, c, n] *= down_scales[:, c // 128, n // 128]
    want = oracle(rows, counts, wide_up, gate_up_bias, wide_down, down_bias)
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-3)
