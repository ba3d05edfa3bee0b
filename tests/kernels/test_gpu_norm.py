"""RMSNorm with and without the residual sum (here: Triton's interpreter) against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu.norm import add_norm, rms_norm
from yardmaster.kernels.reference import norm as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SOME = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPS = 1e-5


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN."""
    real = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: real(*a, **k).fill_(torch.nan))


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@SOME
@given(tokens=st.integers(0, 6), width=st.sampled_from([1, 7, 32, 64, 97, 2880, 4097, 8192]), spread=st.integers(-8, 8))
def test_rms_norm(tokens: int, width: int, spread: int) -> None:
    x = torch.randn(tokens, width, device=DEVICE) * 4.0**spread
    weight = torch.randn(width, device=DEVICE)
    got = rms_norm(x, weight, EPS)
    assert got.dtype == x.dtype
    torch.testing.assert_close(got.double(), normed(x, weight), rtol=1e-5, atol=1e-6)


@SOME
@given(tokens=st.integers(0, 6), width=st.sampled_from([1, 7, 64, 97, 2880, 8192]), k=st.integers(0, 6))
def test_add_norm(tokens: int, width: int, k: int) -> None:
    x, weight = torch.randn(tokens, width, device=DEVICE), torch.randn(width, device=DEVICE)
    y = torch.randn(tokens, *([k] if k else []), width, device=DEVICE)
    weights = torch.randn(tokens, k, device=DEVICE) if k else None
    total, got = add_norm(x, y, weights, weight, EPS)
    want = x.double() + (y.double() if weights is None else (weights.double()[..., None] * y.double()).sum(1))
    torch.testing.assert_close(total.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.double(), normed(total, weight), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total, reference.add_norm(x, y, weights, weight, EPS)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, reference.rms_norm(total, weight, EPS), rtol=1e-5, atol=1e-5)


def test_order_of_the_sum() -> None:
    """Equal slots in another order, and what is lost when a large one goes before small ones: as the twin loses it."""
    y = torch.tensor([3e8, 1.0, 1.0, 1.0, -3e8], device=DEVICE)[None, :, None].expand(1, 5, 8).contiguous()
    x, weight = torch.full((1, 8), 0.25, device=DEVICE), torch.ones(8, device=DEVICE)
    for order in ([0, 1, 2, 3, 4], [1, 2, 3, 0, 4], [0, 4, 1, 2, 3]):
        ones = torch.ones(1, 5, device=DEVICE)
        got, want = (f(x, y[:, order], ones, weight, EPS)[0] for f in (add_norm, reference.add_norm))
        assert torch.equal(got, want)


def test_views_are_read_as_they_lie_and_inputs_stay() -> None:
    room = torch.randn(6, 50, device=DEVICE)
    x, y = room[::2, 3:40], room[1::2, 3:40]
    weight, before = torch.randn(37, device=DEVICE), room.clone()
    torch.testing.assert_close(rms_norm(x, weight, EPS).double(), normed(x, weight), rtol=1e-5, atol=1e-5)
    total, got = add_norm(x, y, None, weight, EPS)
    torch.testing.assert_close(total, x + y)
    torch.testing.assert_close(got.double(), normed(x + y, weight), rtol=1e-5, atol=1e-5)
    assert torch.equal(room, before)


def test_broken_rows_break_no_other() -> None:
    x, weight = torch.randn(5, 33, device=DEVICE), torch.randn(33, device=DEVICE)
    y, weights = torch.randn(5, 3, 33, device=DEVICE), torch.rand(5, 3, device=DEVICE)
    want = add_norm(x, y, weights, weight, EPS)
    x[1, 5], y[3, 2, 32], weights[4, 0] = torch.nan, torch.inf, torch.nan
    for got, old in zip(add_norm(x, y, weights, weight, EPS), want, strict=True):
        assert torch.equal(got[[0, 2]], old[[0, 2]])
    rows = rms_norm(x, weight, EPS)
    assert rows[1].isnan().all()
    assert rows[[0, 2, 3, 4]].isfinite().all()


def test_rows_of_zeros_are_zeros() -> None:
    zero, weight = torch.zeros(2, 40, device=DEVICE), torch.randn(40, device=DEVICE)
    assert torch.equal(rms_norm(zero, weight, EPS), zero)
    assert torch.equal(add_norm(zero, zero, None, weight, EPS)[1], zero)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 2, 33, 128, 8192])
@pytest.mark.parametrize(("width", "k"), [(2880, 4), (4096, 2), (2048, 8), (7168, 8)])
def test_true_shapes_round_once(tokens: int, width: int, k: int) -> None:
    x, flat = torch.randn(2, tokens, width, device=DEVICE, dtype=torch.bfloat16)
    y = torch.randn(tokens, k, width, device=DEVICE, dtype=torch.bfloat16)
    weight, weights = torch.rand(width, device=DEVICE), torch.rand(tokens, k, device=DEVICE)
    half = 2**-9 * 1.01  # half a unit of bfloat16
    torch.testing.assert_close(rms_norm(x, weight, EPS).double(), normed(x, weight), rtol=half, atol=1e-6)
    for other, factors in ((flat, None), (y, weights)):
        total, got = add_norm(x, other, factors, weight, EPS)
        added = flat.double() if factors is None else (weights.double()[..., None] * y.double()).sum(1)
        torch.testing.assert_close(total.double(), x.double() + added, rtol=half, atol=1e-5)
        torch.testing.assert_close(got.double(), normed(total, weight), rtol=half, atol=1e-6)
