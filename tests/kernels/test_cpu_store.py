"""The compiled rotation and cache writes, bit for bit against their twins: poisoned caches, every cache dtype."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable

import pytest
import torch

from yardmaster.kernels import store as door
from yardmaster.kernels.cpu import host

if not host.available():
    pytest.skip("the compiled kernels do not run on this machine", allow_module_level=True)

from yardmaster.kernels.cpu import store as cpu
from yardmaster.kernels.reference import rope as plain_rope
from yardmaster.kernels.reference import store as reference

NATIVE = host.host()
AVX2 = host.Host("x86-64-v3", "", lanes=8, tokens=2, lookup=True)
NARROW = host.Host("x86-64-v3", "", lanes=4, tokens=4, lookup=False)  # the shape that NEON takes
TARGETS = [NATIVE, AVX2, NARROW] if platform.machine() == "x86_64" else [NATIVE]


def _qkv(tokens: int, q_heads: int, kv_heads: int, width: int) -> list[torch.Tensor]:
    """Views of one tensor, as the projection gives them."""
    sizes = [q_heads * width, kv_heads * width, kv_heads * width]
    return [part.unflatten(-1, (-1, width)) for part in torch.randn(tokens, sum(sizes)).split(sizes, -1)]


def _tables(tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(tokens, width // 2), torch.randn(tokens, width // 2)


def _caches(kv_heads: int, width: int, dtype: torch.dtype, slots: int = 90) -> list[torch.Tensor]:
    return [torch.full((slots // 3, 3, kv_heads, width), float("nan")).to(dtype) for _ in "kv"]


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.equal(x.float().nan_to_num(7e7), y.float().nan_to_num(7e7))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("dtype", cpu.DTYPES, ids=str)
def test_random_shapes_match_the_twins(target: host.Host, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {kind: cpu.program(kind, target) for kind in {dtype, torch.float32}}
    monkeypatch.setattr(cpu, "program", programs.__getitem__)
    for width in (2, 6, 16, 34, 64, 96):
        tokens, q_heads, kv_heads = random.choice((0, 1, 2, 7, 40)), random.randrange(1, 6), random.randrange(1, 4)
        q, k, v = _qkv(tokens, q_heads, kv_heads, width)
        tables, mine, twin = _tables(tokens, width), _caches(kv_heads, width, dtype), _caches(kv_heads, width, dtype)
        slots = torch.randperm(90)[:tokens]
        slots[torch.rand(tokens) < 0.2] = -1
        rows = torch.randint(0, max(1, tokens), (tokens,))
        copies = q.clone(), (k * 100).clone(), (v * 300).clone()
        ours = [x.clone() for x in copies]
        cpu.rope_store_(*ours, *tables, *mine, slots)
        reference.rope_store_(*copies, *tables, *twin, slots)
        assert torch.equal(ours[0], copies[0])
        assert all(map(_same, mine, twin))
        cpu.store(k, v, *mine, rows, slots.flip(0))
        reference.store(k, v, *twin, rows, slots.flip(0))
        assert all(map(_same, mine, twin))
        q_twin, k_twin, v_twin = q.clone(), k.clone(), v.clone()
        cpu.rope_(q, k, *tables)  # strided views of one tensor: values stay as they are
        plain_rope.rope_(q_twin, k_twin, *tables)
        assert torch.equal(q, q_twin)
        assert torch.equal(k, k_twin)
        assert torch.equal(v, v_twin)


@pytest.mark.parametrize("dtype", cpu.DTYPES[1:], ids=str)
def test_every_kind_of_number_is_rounded_as_torch_does(dtype: torch.dtype) -> None:
    bits = torch.arange(-(1 << 31), 1 << 31, 65521 * 3)
    values = torch.cat(
        (
            bits.to(torch.int32).view(torch.float32),  # all exponents, infinities and NaN among them
            torch.arange(0x38000000, 0x44000000, 999, dtype=torch.int32).view(torch.float32),
            -torch.arange(1 << 12) / 2.0**12,  # halves of 8-bit steps
            torch.tensor([448.0, 464.0, 465.0, 480.0, -449.0, 2.0**-9, 2.0**-10, -(2.0**-10), 0.0, -0.0]),
        )
    )
    values = values[: len(values) // 2 * 2].view(-1, 1, 2)
    mine, twin = [[torch.zeros(len(values), 1, 1, 2).to(dtype) for _ in "kv"] for _ in range(2)]
    slots = torch.arange(len(values))
    cpu.store(values, values, *mine, None, slots)
    reference.store(values, values, *twin, None, slots)
    assert _same(mine[0], twin[0])
    assert torch.equal(mine[1].float().signbit() | mine[1].isnan(), twin[1].float().signbit() | twin[1].isnan())


def test_the_same_on_any_threads(threads: Callable) -> None:
    parts, tables, slots = _qkv(80, 8, 2, 64), _tables(80, 64), torch.randperm(90)[:80]
    results = []
    for count in (1, 2, 3):
        threads(count)
        q, k, v = (part.clone() for part in parts)
        caches = _caches(2, 64, torch.bfloat16)
        cpu.rope_store_(q, k, v, *tables, *caches, slots)
        results.append((q, *caches))
    for other in results[1:]:
        assert all(map(_same, other, results[0]))


def test_slots_and_rows_that_are_not_there_are_refused() -> None:
    k, v = torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    for rows, slots in (
        (None, [0, 90, 1]),
        (None, [0, 1 << 60, 1]),
        ([0, 3, 1], [0, 1, 2]),
        ([0, -1, 1], [0, 1, 2]),
    ):
        caches = _caches(2, 8, torch.float32)
        with pytest.raises(IndexError, match="slot"):
            cpu.store(k, v, *caches, None if rows is None else torch.tensor(rows), torch.tensor(slots))
        assert caches[0].view(90, 2, 8)[3:].isnan().all()


def test_refuses_what_does_not_fit() -> None:
    q, k, v = _qkv(4, 4, 2, 8)
    good = [q, k, v, *_tables(4, 8), *_caches(2, 8, torch.float32), torch.arange(4)]
    cpu.rope_store_(*good)
    for index, wrong in (
        (0, q[:3]),
        (0, q.double()),
        (0, q[..., ::2]),
        (1, k[:, :1]),
        (2, v.bfloat16()),
        (3, good[3][:, :2]),
        (4, good[4].double()),
        (5, good[5].bfloat16()),
        (6, good[6].transpose(0, 1)),
        (6, good[6][:, :, :1]),
        (7, torch.arange(3)),
        (7, torch.arange(4).int()),
    ):
        with pytest.raises(ValueError, match="keys"):
            cpu.rope_store_(*good[:index], wrong, *good[index + 1 :])
    with pytest.raises(ValueError, match="keys"):
        cpu.store(k, v, good[5], good[6], torch.arange(3), torch.arange(4))
    with pytest.raises(ValueError, match="keys"):
        cpu.rope_(*_qkv(1, 1, 1, 7)[:2], torch.ones(1, 3), torch.ones(1, 3))


@torch.inference_mode()
def test_the_doors_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations that are not float32, and cache dtypes that the kernel does not know, go to plain torch."""
    q, k, v = _qkv(3, 2, 1, 8)
    tables, slots = _tables(3, 8), torch.arange(3)
    mine, twin = _caches(1, 8, torch.float8_e5m2), _caches(1, 8, torch.float8_e5m2)
    reference.rope_store_(q.clone(), k.clone(), v, *tables, *twin, slots)
    door.rope_store_(q.clone(), k.clone(), v, *tables, *mine, slots)
    assert all(map(_same, mine, twin))
    monkeypatch.setattr(cpu, "_run", lambda *_: pytest.fail("taken"))
    door.rope_(q.bfloat16(), k.bfloat16(), *tables)
    door.store(k.bfloat16(), v.bfloat16(), *_caches(1, 8, torch.bfloat16), None, slots)
    with pytest.raises(pytest.fail.Exception):
        door.rope_(q, k, *tables)
