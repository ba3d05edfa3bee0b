from __future__ import annotations

import pytest
import torch

from yardmaster.kernels.reference.routing import route_topk_softmax


@pytest.mark.parametrize(("tokens", "experts", "k"), [(0, 8, 2), (1, 1, 1), (7, 32, 4), (13, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_over_the_chosen(tokens: int, experts: int, k: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(tokens, experts) * 4).to(dtype)
    ids, weights = route_topk_softmax(logits, k)
    assert (ids.dtype, weights.dtype) == (torch.int64, torch.float32)
    assert ids.shape == weights.shape == (tokens, k)
    for t in range(tokens):
        row = logits[t].double()
        chosen = ids[t].tolist()
        assert len(set(chosen)) == k
        assert sorted(row[chosen].tolist(), reverse=True) == row[chosen].tolist() == sorted(row.tolist())[::-1][:k]
        want = row[chosen].exp() / row[chosen].exp().sum()
        torch.testing.assert_close(weights[t].double(), want, rtol=1e-6, atol=1e-7)


def test_huge_logits_do_not_overflow() -> None:
    _, weights = route_topk_softmax(torch.tensor([[1e4, -1e4, 1e4, 0.0]]), 3)
    assert weights.tolist() == [[0.5, 0.5, 0.0]]
