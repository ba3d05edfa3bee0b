"""The compiled decode attention against its twin in float64: odd sizes, poisoned caches, every page size and dtype."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from yardmaster.kernels.cpu import host

if not host.available():
    pytest.skip("the compiled kernels do not run on this machine", allow_module_level=True)

from yardmaster.kernels.attention import decode_attention as door
from yardmaster.kernels.cpu import decode_attention as cpu
from yardmaster.kernels.reference import attention as reference

NATIVE = host.host()
AVX2 = host.Host("x86-64-v3", "", lanes=8, tokens=2, lookup=True)
NARROW = host.Host("x86-64-v3", "", lanes=4, tokens=4, lookup=False)  # the shape that NEON takes
TARGETS = [NATIVE, AVX2, NARROW] if platform.machine() == "x86_64" else [NATIVE]


def _case(
    contexts: list[int],
    *,
    kv_heads: int = 2,
    group: int = 3,
    width: int = 24,
    page_size: int = 4,
    window: int | None = None,
    sinks: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, ...]:
    """Arguments of a step. What no query may see is NaN: slots behind the position, before the window, other pages."""
    batch, count = len(contexts), sum(-(-context // page_size) for context in contexts) + 2
    caches = [torch.full((count, page_size, kv_heads, width), float("nan")) for _ in "kv"]
    free = torch.randperm(count).tolist()
    columns = max((-(-context // page_size) for context in contexts), default=0) + random.randrange(1, 3)
    pages_BP, first_B = torch.full((batch, columns), free.pop()), torch.zeros(batch, dtype=torch.int64)
    for row, context in enumerate(contexts):
        low = 0 if window is None else max(0, context - window)
        first_B[row] = low // page_size * page_size
        used = -(-(context - int(first_B[row])) // page_size)
        pages_BP[row, :used] = torch.tensor([free.pop() for _ in range(used)], dtype=torch.int64)
        at = torch.arange(low, context)
        slots = pages_BP[row, (at - first_B[row]) // page_size] * page_size + at % page_size
        for cache in caches:
            cache.view(-1, kv_heads, width)[slots] = torch.randn(len(at), kv_heads, width)
    heads = kv_heads * group
    qkv = torch.randn(batch, (heads + 2 * kv_heads) * width)  # queries are a view of what the projection gives
    q_BHd = qkv[:, : heads * width].unflatten(-1, (heads, width))
    keys, values = (cache.to(dtype) for cache in caches)
    sinks_H = torch.randn(heads) if sinks else None
    return (
        q_BHd,
        keys,
        values,
        pages_BP,
        first_B,
        torch.tensor(contexts, dtype=torch.int64) - 1,
        sinks_H,
        window,
        width**-0.5,
    )


def _twin(case: tuple[Any, ...]) -> torch.Tensor:
    return reference.decode_attention(*(x.double() for x in case[:3]), *case[3:])


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("dtype", cpu.DTYPES, ids=str)
def test_random_shapes_match_the_twin(target: host.Host, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    program = cpu.program(dtype, target)
    monkeypatch.setattr(cpu, "program", lambda _: program)
    for width in (1, 2, 7, 16, 33, 64, 80, 130):
        got, want, told = [torch.empty(0)], [torch.empty(0)], []
        while sum(map(len, got)) < 64:  # the norm of a few numbers may be next to nothing
            case = _case(
                random.choices((1, 2, 5, 63, 64, 65, 128, 131, 200), k=random.randrange(1, 6)),
                kv_heads=random.randrange(1, 4),
                group=random.choice((1, 2, 3, 4, 5, 6, 8, 11)),
                width=width,
                page_size=random.choice((1, 2, 3, 4, 7, 16, 64)),
                window=random.choice((None, 1, 5, 64, 128)),
                sinks=random.random() < 0.5,
                dtype=dtype,
            )
            got.append(cpu.decode_attention(*case).flatten())
            want.append(_twin(case).flatten())
            told.append((case[1].shape, case[5], case[7]))
        assert got[-1].dtype == torch.float32
        assert _relative(torch.cat(got), torch.cat(want)) < 1e-6, (width, told)


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 8, 16, 31, 64])
@pytest.mark.parametrize("window", [None, 1, 37])
def test_page_sizes_and_windows(page_size: int, window: int | None) -> None:
    case = _case([1, page_size, page_size + 1, 150], page_size=page_size, window=window)
    assert _relative(cpu.decode_attention(*case), _twin(case)) < 1e-6


def test_padded_rows_are_zero_and_read_nothing() -> None:
    case = list(_case([9, 30, 4]))
    want = _twin(tuple(case))
    case[5] = case[5].clone().index_fill_(0, torch.tensor([1]), -1)
    case[3][1] = 1 << 40  # a padded row's pages mean nothing
    got = cpu.decode_attention(*case)
    assert not got[1].any()
    assert _relative(got[[0, 2]], want[[0, 2]]) < 1e-6
    assert cpu.decode_attention(*_case([])).shape == (0, 6, 24)


def test_a_row_is_the_same_alone_in_a_batch_and_on_any_threads(threads: Callable) -> None:
    case = _case([700, 3, 64, 129, 301], kv_heads=3, width=64)
    threads(1)
    alone = torch.cat([cpu.decode_attention(*_rows(case, row, row + 1)) for row in range(5)])
    for count in (1, 2, 3):
        threads(count)
        assert torch.equal(cpu.decode_attention(*case), alone)
        assert torch.equal(cpu.decode_attention(*_rows(case, 2, 5)), alone[2:])


def _rows(case: tuple[Any, ...], low: int, high: int) -> tuple[Any, ...]:
    q, keys, values, pages, first, positions, *rest = case
    return q[low:high], keys, values, pages[low:high], first[low:high], positions[low:high], *rest


def test_scores_far_apart_and_sinks_that_take_all_or_nothing() -> None:
    case = list(_case([200, 70], width=16))
    case[0] = (case[0] * 300).round()  # weights of one key are 1, of others 0
    case[1] = (case[1] * 32).round() / 32  # sums of such products are exact: rounding decides between no two keys
    assert _relative(cpu.decode_attention(*case), _twin(tuple(case))) < 1e-5
    case[6] = torch.tensor([float("-inf"), -1e30, 0.0, 1e4, 1e30, 50.0])
    got = cpu.decode_attention(*case)
    assert got.isfinite().all()
    assert _relative(got, _twin(tuple(case))) < 1e-5
    assert got[:, 4].abs().max() < 1e-30


def test_a_number_that_is_none_stays_in_its_row() -> None:
    case = _case([40, 41])
    case[0][0, 1, 3] = float("nan")
    got = cpu.decode_attention(*case)
    assert got[0, 1].isnan().all()
    assert _relative(got[1], _twin(case)[1]) < 1e-6
    assert got[0, 2:].isfinite().all()


@pytest.mark.parametrize("page", [-1, 1000, 1 << 60])
def test_a_page_that_is_not_in_the_cache_is_refused(page: int) -> None:
    case = _case([40])
    case[3][0, 3] = page
    with pytest.raises(IndexError, match="page"):
        cpu.decode_attention(*case)


def test_refuses_what_does_not_fit() -> None:
    case = _case([5, 6])
    for index, wrong in (
        (0, case[0].double()),
        (0, case[0][:, :5]),
        (0, case[0][..., :8]),
        (1, case[1].transpose(0, 1)),
        (2, case[2][:2]),
        (2, case[2].bfloat16()),
        (3, case[3][:1]),
        (3, case[3].int()),
        (4, case[4][:1]),
        (5, case[5][:1]),
        (6, torch.ones(4)),
        (6, torch.ones(6).double()),
    ):
        with pytest.raises(ValueError, match="decode attention"):
            cpu.decode_attention(*case[:index], wrong, *case[index + 1 :])


@torch.inference_mode()
def test_the_door_takes_it_for_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case([17, 3], dtype=torch.bfloat16)
    assert torch.equal(door(*case), cpu.decode_attention(*case))
    monkeypatch.setattr(cpu, "decode_attention", lambda *_: pytest.fail("taken"))
    for dtype in (torch.bfloat16, torch.float64):
        other = tuple(x.to(dtype) for x in case[:3]) + case[3:]
        assert _relative(door(*other), _twin(case)) < 0.02
