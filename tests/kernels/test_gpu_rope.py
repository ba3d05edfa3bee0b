"""Rotary embedding in place (here: Triton's interpreter) against complex numbers in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu import rope
from yardmaster.kernels.gpu.rope import rope_
from yardmaster.kernels.reference import rope as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SOME = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def views(tokens: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype = torch.float32) -> tuple:
    """Queries, keys and values as slices of one product, and the product."""
    sizes = [heads * width, kv_heads * width, kv_heads * width]
    qkv = torch.randn(tokens, sum(sizes), device=DEVICE).to(dtype)
    return *(part.unflatten(-1, (-1, width)) for part in qkv.split(sizes, -1)), qkv


def angles(tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of random angles, scaled as YaRN's are."""
    turn = 100 * torch.rand(tokens, width // 2, device=DEVICE)
    return 1.3466 * turn.cos(), 1.3466 * turn.sin()


def oracle(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    turned = pairs * torch.complex(cos.double(), sin.double())[:, None]
    return torch.cat((turned.real, turned.imag), -1)


@pytest.mark.parametrize("pairs", [16, 1024])
@SOME
@given(
    tokens=st.integers(0, 7),
    heads=st.sampled_from([1, 3, 8, 17]),
    kv_heads=st.sampled_from([1, 2, 5]),
    width=st.sampled_from([2, 6, 16, 34]),
)
def test_every_pair_of_every_head(
    pairs: int, tokens: int, heads: int, kv_heads: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rope, "PAIRS", pairs)  # few: several programs a token, the last of them not full
    q, k, v, _ = views(tokens, heads, kv_heads, width)
    table = angles(tokens, width)
    want_q, want_k, old_v = oracle(q, *table), oracle(k, *table), v.clone()
    rope_(q, k, *table)
    torch.testing.assert_close(q.double(), want_q, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(k.double(), want_k, rtol=1e-5, atol=1e-5)
    assert torch.equal(v, old_v)


def test_as_the_twin_and_nothing_beside_the_views() -> None:
    """Strides of tokens and of heads like nobody else's, and others for queries than for keys."""
    rooms = [torch.full(shape, 7.0, device=DEVICE) for shape in ((5, 9, 3, 24), (4, 2, 5, 20))]
    want = [room.clone() for room in rooms]
    table = angles(3, 10)
    for put, function in ((rooms, rope_), (want, reference.rope_)):
        torch.manual_seed(1)
        q, k = put[0][1:4, 1:8, 0, 2:12], put[1][1:, 1, 1:4, 8:18]
        q.copy_(torch.randn(q.shape)), k.copy_(torch.randn(k.shape))
        function(q, k, *table)
    for got, twin, count in zip(rooms, want, (3 * 7 * 10, 3 * 3 * 10), strict=True):
        torch.testing.assert_close(got, twin, rtol=1e-6, atol=1e-6)
        assert (got != 7).sum() == count


def test_broken_rows_break_no_other() -> None:
    q, k, _, qkv = views(5, 3, 2, 12)
    table = angles(5, 12)
    want_q, want_k = oracle(q, *table), oracle(k, *table)
    qkv[2] = torch.nan
    table[0][4] = torch.nan
    rope_(q, k, *table)
    for got, want in ((q, want_q), (k, want_k)):
        torch.testing.assert_close(got[[0, 1, 3]].double(), want[[0, 1, 3]], rtol=1e-5, atol=1e-5)
        assert got[[2, 4]].isnan().all()


def test_scattered_values_are_refused() -> None:
    q = torch.randn(2, 4, 6, 2, device=DEVICE)[..., 0]
    with pytest.raises(ValueError, match="side by side"):
        rope_(q, torch.randn(2, 1, 6, device=DEVICE), *angles(2, 6))


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 2, 33, 128, 8192])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(64, 8, 64), (32, 8, 128), (32, 4, 128), (8, 1, 64)])
def test_true_shapes_round_once(tokens: int, heads: int, kv_heads: int, width: int) -> None:
    q, k, v, _ = views(tokens, heads, kv_heads, width, torch.bfloat16)
    table = angles(tokens, width)
    want_q, want_k, old_v = oracle(q, *table), oracle(k, *table), v.clone()
    rope_(q, k, *table)
    for got, want in ((q, want_q), (k, want_k)):
        torch.testing.assert_close(got.double(), want, rtol=2**-9 * 1.01, atol=1e-6)  # half a unit of bfloat16
    assert torch.equal(v, old_v)
