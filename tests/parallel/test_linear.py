from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yardmaster.kernels.reference.linear import linear
from yardmaster.parallel.heads import split_heads

SCRIPT = Path(__file__).with_name("linear_ranks.py")


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shards_are_the_whole(ranks: Callable[..., list[Any]], world: int) -> None:
    assert ranks(SCRIPT, world) == [True] * world


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12, 24, 64])
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 8])
def test_heads_are_shared_out_once_and_sit_with_their_keys(heads: int, kv_heads: int) -> None:
    for tp in range(1, 20):
        if heads % kv_heads or (tp > kv_heads and (tp % kv_heads or tp > heads)):
            with pytest.raises(ValueError, match="heads"):
                split_heads(heads, kv_heads, tp, 0)
            continue
        shares = [split_heads(heads, kv_heads, tp, index) for index in range(tp)]
        assert [head for q, _ in shares for head in q] == list(range(heads))
        for q, kv in shares:
            assert len(q) % len(kv) == 0  # query head i of the rank reads key head i // (its queries a key)
            assert [kv.start + i // (len(q) // len(kv)) for i in range(len(q))] == [h // (heads // kv_heads) for h in q]
        held = [head for _, kv in shares for head in kv]
        assert sorted(held) == sorted(list(range(kv_heads)) * max(1, tp // kv_heads))


def test_a_tensor_parallel_size_that_does_not_fit_names_its_flag() -> None:
    with pytest.raises(ValueError, match=r"--tensor-parallel-size 12 .* at most 8, or a multiple of it up to 64"):
        split_heads(64, 8, 12, 0)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_linear_computes_in_the_activations_dtype(stored: torch.dtype) -> None:
    x, w, b = torch.randn(5, 7), torch.randn(3, 7).to(stored), torch.randn(3).to(stored)
    y = linear(x, w, b)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, (x.double() @ w.double().T + b.double()).float())
    assert linear(x[:0], w).shape == (0, 3)
