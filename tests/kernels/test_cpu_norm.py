"""The compiled norms against their twins in float64: odd sizes, on this machine's vectors and on narrower ones."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch

from yardmaster.kernels.cpu import host

if not host.available():
    pytest.skip("the compiled kernels do not run on this machine", allow_module_level=True)

from yardmaster.kernels import norm as door
from yardmaster.kernels.cpu import norm as cpu
from yardmaster.kernels.reference import norm as reference

NATIVE = host.host()
AVX2 = host.Host("x86-64-v3", "", lanes=8, tokens=2, lookup=True)
NARROW = host.Host("x86-64-v3", "", lanes=4, tokens=4, lookup=False)  # the shape that NEON takes
TARGETS = [NATIVE, AVX2, NARROW] if platform.machine() == "x86_64" else [NATIVE]
EPS = 1e-5


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight.double()


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("width", [1, 2, 15, 16, 31, 64, 97, 960])
def test_odd_sizes_match_float64(target: host.Host, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = cpu.program(target)
    monkeypatch.setattr(cpu, "program", lambda: program)
    for tokens in (0, 1, 3, 40):
        x, weight = torch.randn(tokens, width), torch.randn(width)
        assert _relative(cpu.rms_norm(x, weight, EPS), _norm(x, weight)) < 1e-6
        y = torch.randn(tokens, width)
        total, normed = cpu.add_norm(x, y, None, weight, EPS)
        assert torch.equal(total, x + y)
        assert _relative(normed, _norm(total, weight)) < 1e-6
        for k in (1, 2, 5):
            rows, weights = torch.randn(tokens, k, width), torch.randn(tokens, k)
            total, normed = cpu.add_norm(x, rows, weights, weight, EPS)
            want = x.double() + torch.einsum("tkd,tk->td", rows.double(), weights.double())
            size = x.double().abs() + torch.einsum("tkd,tk->td", rows.double().abs(), weights.double().abs())
            assert ((total - want).abs() <= 1e-6 * size).all(), (tokens, k)
            assert _relative(normed, _norm(total, weight)) < 1e-6


def test_writes_what_it_was_given_and_nothing_else() -> None:
    """Two rows inside a larger piece of memory; inputs stay as they are."""
    x, y, weight, around = torch.randn(2, 19), torch.randn(2, 19), torch.randn(19), torch.full((6, 19), float("nan"))
    before = x.clone(), y.clone(), weight.clone()
    sums, normed = around[1:3], around[4:5]
    pointers = [tensor.data_ptr() for tensor in (x, y)], [tensor.data_ptr() for tensor in (weight, sums)]
    cpu.program()(1, *pointers[0], 0, *pointers[1], normed.data_ptr(), 1, 19, 0, EPS)
    assert torch.equal(around[1], x[0] + y[0])
    assert _relative(around[4], _norm(around[1], weight)) < 1e-6
    assert around[[0, 2, 3, 5]].isnan().all()
    assert all(torch.equal(was, now) for was, now in zip(before, (x, y, weight), strict=True))


def test_any_leading_shape_strides_and_extremes() -> None:
    weight = torch.randn(24)
    x = torch.randn(24, 3, 5).permute(1, 2, 0)
    assert _relative(cpu.rms_norm(x, weight, EPS), _norm(x, weight)) < 1e-6
    assert not cpu.rms_norm(torch.zeros(2, 24), weight, EPS).any()
    for value in (float("nan"), float("inf")):
        x = torch.randn(3, 24)
        x[1, 7] = value
        got = cpu.rms_norm(x, weight, EPS)
        assert not got[1].isfinite().all()
        assert _relative(got[[0, 2]], _norm(x[[0, 2]], weight)) < 1e-6


def test_a_row_is_the_same_alone_in_a_batch_and_on_any_threads(threads: Callable) -> None:
    x, rows, weights, weight = torch.randn(37, 960), torch.randn(37, 4, 960), torch.rand(37, 4), torch.randn(960)
    threads(1)
    alone = [cpu.add_norm(x[i : i + 1], rows[i : i + 1], weights[i : i + 1], weight, EPS) for i in range(37)]
    for count in (1, 2, 3):
        threads(count)
        for got, want in zip(cpu.add_norm(x, rows, weights, weight, EPS), zip(*alone, strict=True), strict=True):
            assert torch.equal(got, torch.cat(want))
        assert torch.equal(cpu.rms_norm(x, weight, EPS)[3:4], cpu.rms_norm(x[3:4], weight, EPS))


@pytest.mark.parametrize(
    ("x", "y", "weights", "weight"),
    [
        (torch.ones(2, 8), torch.ones(2, 9), None, torch.ones(8)),
        (torch.ones(2, 8), torch.ones(2, 3, 8), None, torch.ones(8)),
        (torch.ones(2, 8), torch.ones(2, 3, 8), torch.ones(2, 4), torch.ones(8)),
        (torch.ones(2, 8), torch.ones(2, 0, 8), torch.ones(2, 0), torch.ones(8)),
        (torch.ones(2, 8), torch.ones(2, 3, 8), torch.ones(2, 3).double(), torch.ones(8)),
        (torch.ones(2, 8), torch.ones(2, 8), None, torch.ones(7)),
        (torch.ones(2, 8), torch.ones(2, 8), None, torch.ones(8).bfloat16()),
        (torch.ones(2, 8).double(), torch.ones(2, 8), None, torch.ones(8)),
        (torch.ones(2, 8), torch.ones(2, 8).bfloat16(), None, torch.ones(8)),
    ],
)
def test_refuses_what_does_not_fit(x, y, weights, weight) -> None:
    with pytest.raises(ValueError, match="norm"):
        cpu.add_norm(x, y, weights, weight, EPS)


@torch.inference_mode()
def test_the_doors_take_it_for_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(3, 33), torch.randn(33)
    assert torch.equal(door.rms_norm(x, weight, EPS), cpu.rms_norm(x, weight, EPS))
    assert torch.equal(door.add_norm(x, x, None, weight, EPS)[1], cpu.add_norm(x, x, None, weight, EPS)[1])
    monkeypatch.setattr(cpu, "rms_norm", lambda *_: pytest.fail("taken"))
    monkeypatch.setattr(cpu, "add_norm", lambda *_: pytest.fail("taken"))
    brain = x.bfloat16()
    assert torch.equal(door.rms_norm(brain, weight, EPS), reference.rms_norm(brain, weight, EPS))
    assert torch.equal(
        door.add_norm(brain, brain, None, weight, EPS)[1], reference.add_norm(brain, brain, None, weight, EPS)[1]
    )
