"""The cache's writers (here: Triton's interpreter) against loops over rows.

The interpreter rounds to 8 bits wrongly: without a GPU such caches get values that need no rounding.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu import rope
from yardmaster.kernels.gpu.rope import rope_
from yardmaster.kernels.gpu.rope_store import rope_store_
from yardmaster.kernels.gpu.store import store

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP8 = torch.float8_e4m3fn
SOME = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def views(tokens: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype = torch.float32) -> tuple:
    """Queries, keys and values as slices of one product."""
    sizes = [heads * width, kv_heads * width, kv_heads * width]
    qkv = torch.randn(tokens, sum(sizes), device=DEVICE).to(dtype)
    return tuple(part.unflatten(-1, (-1, width)) for part in qkv.split(sizes, -1))


def exact(x: torch.Tensor) -> None:
    """Fill with what 8 bits hold as it is, and with much that is too large for them."""
    x.copy_(torch.randint(8, 16, x.shape) * 2.0 ** torch.randint(-8, 9, x.shape) * (torch.randint(0, 3, x.shape) - 1))


def caches(pages: int, size: int, kv_heads: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Never written: NaN everywhere."""
    shape = 2, pages, size, kv_heads, width
    k_cache, v_cache = torch.full(shape, torch.nan, device=DEVICE).to(dtype)
    return k_cache, v_cache


def slots_of(count: int, size: int) -> torch.Tensor:
    """Different ones, some of them -1 as a padded row's."""
    slots = torch.randperm(size)[:count]
    slots[torch.rand(count) < 0.2] = -1
    return slots.to(DEVICE)


def bits(cache: torch.Tensor) -> torch.Tensor:
    return cache.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[cache.dtype.itemsize])


def check(cache: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
    """Row i in slot i, all other slots as they were."""
    want = torch.full_like(cache, torch.nan, dtype=torch.float32).to(cache.dtype).flatten(0, 1)
    if cache.dtype == FP8:
        rows = rows.float().clamp(-448, 448)
    for row, slot in zip(rows, slots.tolist(), strict=True):
        if 0 <= slot < len(want):
            want[slot] = row.to(cache.dtype)
    assert torch.equal(bits(cache.flatten(0, 1)), bits(want))


@SOME
@given(
    count=st.integers(0, 9),
    kv_heads=st.sampled_from([1, 3, 8]),
    width=st.sampled_from([1, 8, 10, 33]),
    dtype=st.sampled_from([torch.float32, FP8]),
    picked=st.booleans(),
)
def test_rows_go_to_their_slots(count: int, kv_heads: int, width: int, dtype: torch.dtype, picked: bool) -> None:
    _, k, v = views(11, 2, kv_heads, width)
    if dtype == FP8:
        exact(k), exact(v)
    k_cache, v_cache = caches(4, 4, kv_heads, width, dtype)
    slots = slots_of(count, 16)
    rows = torch.randperm(11)[:count].to(DEVICE)
    store(k, v, k_cache, v_cache, rows if picked else None, slots)
    taken = rows if picked else slice(count)
    check(k_cache, k[taken], slots)
    check(v_cache, v[taken], slots)


@pytest.mark.parametrize("heads", [3, 4])
def test_nothing_is_written_beside_the_slots(heads: int) -> None:
    """Neither before nor behind the cache, nor between its slots: keys, values and others' heads lie there by turns."""
    k, v = torch.randn(2, 6, heads, 6, device=DEVICE)
    slots = torch.tensor([-1, 8, -(1 << 40), 3, 1 << 40, 9], device=DEVICE)
    ones = torch.ones(6, 3, device=DEVICE)
    room = torch.full((6, 4, 2, 9, 6), 7.0, device=DEVICE)
    want = room.clone()
    want[2, 3, 0, :heads], want[2, 3, 1, :heads] = k[3], v[3]
    for write in (
        lambda *cache: store(k, v, *cache, None, slots),
        lambda *cache: rope_store_(k.clone(), k, v, ones, 0 * ones, *cache, slots),
    ):
        room.fill_(7)
        write(room[2:4, :, 0, :heads], room[2:4, :, 1, :heads])
        assert torch.equal(room, want)


def test_eight_bits_hold_their_largest() -> None:
    values = torch.tensor([448.0, 449, 465, 1e9, 3e38, torch.inf, 0.0, 416, 2**-6])
    k = torch.cat((values, -values)).view(1, 3, 6).to(DEVICE)
    k_cache, v_cache = caches(1, 1, 3, 6, FP8)
    store(k, -k, k_cache, v_cache, None, torch.tensor([0], device=DEVICE))
    assert torch.equal(k_cache.flatten().float(), k.flatten().clamp(-448, 448))
    assert torch.equal(v_cache.flatten().float(), -k.flatten().clamp(-448, 448))


def test_scattered_values_are_refused() -> None:
    k = torch.randn(2, 3, 6, 2, device=DEVICE)[..., 0]
    good = torch.randn(2, 3, 6, device=DEVICE)
    slots, table = torch.tensor([0, 1], device=DEVICE), torch.ones(2, 3, device=DEVICE)
    for pair in ((k, good), (good, k)):
        with pytest.raises(ValueError, match="side by side"):
            store(*pair, *caches(1, 4, 3, 6, torch.float32), None, slots)
        with pytest.raises(ValueError, match="side by side"):
            rope_store_(good, *pair, table, table, *caches(1, 4, 3, 6, torch.float32), slots)


@pytest.mark.parametrize("pairs", [16, 1024])
@SOME
@given(
    tokens=st.integers(0, 7),
    heads=st.sampled_from([1, 3, 16]),
    kv_heads=st.sampled_from([1, 5, 8]),
    width=st.sampled_from([2, 6, 16]),
    dtype=st.sampled_from([torch.float32, FP8]),
)
def test_rope_and_store_in_one(
    pairs: int, tokens: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what the two kernels do, whose own tests know better; and k and v stay as they were."""
    monkeypatch.setattr(rope, "PAIRS", pairs)
    q, k, v = views(tokens, heads, kv_heads, width)
    turn = 9 * torch.rand(tokens, width // 2, device=DEVICE)
    table = turn.cos(), turn.sin()
    if dtype == FP8:
        exact(k), exact(v)
        table = turn.cos().round(), 1 - turn.cos().round().abs()  # quarters of a turn
    slots = slots_of(tokens, 12)
    want_q, want_k, old_k, old_v = q.clone(), k.clone(), k.clone(), v.clone()
    rope_(want_q, want_k, *table)
    k_cache, v_cache = caches(3, 4, kv_heads, width, dtype)
    rope_store_(q, k, v, *table, k_cache, v_cache, slots)
    assert torch.equal(q, want_q)
    check(k_cache, want_k, slots)
    check(v_cache, old_v, slots)
    assert torch.equal(k, old_k)
    assert torch.equal(v, old_v)


def test_padded_rows_of_nan_reach_no_slot() -> None:
    q, k, v = views(4, 2, 2, 8)
    for x in (q, k, v):
        x[1::2] = torch.nan
    k_cache, v_cache = torch.zeros(2, 2, 4, 2, 8, device=DEVICE)
    table = torch.full((4, 4), torch.nan, device=DEVICE)
    table[::2] = 0.5
    slots = torch.tensor([5, -1, 2, -1], device=DEVICE)
    rope_store_(q, k, v, table, table, k_cache, v_cache, slots)
    store(k, v, *torch.zeros_like(torch.stack((k_cache, v_cache))), None, slots)
    assert q[::2].isfinite().all()
    assert k_cache.isfinite().all()
    assert v_cache.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [1, 2, 33, 128, 8192])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(64, 8, 64), (32, 8, 128), (32, 4, 128), (8, 1, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, FP8], ids=["bfloat16", "fp8"])
def test_true_shapes(tokens: int, heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> None:
    q, k, v = views(tokens, heads, kv_heads, width, torch.bfloat16)
    k[0, 0, 1], v[0, 0, :3] = torch.nan, torch.tensor([torch.inf, 460, torch.nan])
    turn = 9 * torch.rand(tokens, width // 2, device=DEVICE)
    slots = slots_of(tokens, 16 * 520)
    want_q, want_k = q.clone(), k.clone()
    rope_(want_q, want_k, turn.cos(), turn.sin())
    first, second = (caches(520, 16, kv_heads, width, dtype) for _ in range(2))
    rope_store_(q, k, v, turn.cos(), turn.sin(), *first, slots)
    torch.testing.assert_close(q, want_q, rtol=0, atol=0)
    rows = torch.randperm(tokens, device=DEVICE)
    store(want_k, v, *second, rows, slots[rows])
    kept = slots >= 0
    for cache, other, row in zip(first, second, (want_k, v), strict=True):
        want = torch.full_like(cache, torch.nan, dtype=torch.float32).to(dtype).flatten(0, 1)
        bits(want)[slots[kept]] = bits(row.float().clamp(-448, 448).to(dtype) if dtype == FP8 else row)[kept]
        for got in (cache, other):
            torch.testing.assert_close(got.flatten(0, 1).float(), want.float(), rtol=0, atol=0, equal_nan=True)
