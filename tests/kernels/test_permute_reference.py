from __future__ import annotations

import pytest
import torch

from yardmaster.kernels.reference.permute import group, ungroup, weighted_sum


@pytest.mark.parametrize(("pairs", "groups"), [(0, 3), (1, 1), (17, 5), (101, 2), (6, 0)])
def test_group_is_stable_and_drops_what_is_not_here(pairs: int, groups: int) -> None:
    keys = torch.randint(groups + 1, (pairs,))
    here = [i for i, key in enumerate(keys.tolist()) if key < groups]
    order, counts = group(keys, groups, len(here))
    assert order.tolist() == sorted(here, key=lambda i: (int(keys[i]), i))
    assert counts.tolist() == [keys.tolist().count(g) for g in range(groups)]
    assert (order.dtype, counts.dtype) == (torch.int64, torch.int64)

    positions = ungroup(order, pairs).tolist()
    assert positions == [order.tolist().index(i) if i in here else len(here) for i in range(pairs)]


@pytest.mark.parametrize("rows_dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("absent", [True, False])
def test_weighted_sum_is_the_loop(rows_dtype: torch.dtype, weighted: bool, absent: bool) -> None:
    tokens, k, width = 11, 3, 7
    rows = torch.randn(tokens * k, width).to(rows_dtype)
    if absent:
        rows = rows[: tokens * k // 2]
    positions = torch.randperm(tokens * k).clamp(max=len(rows)).view(tokens, k)
    weights = torch.rand(tokens, k) if weighted else None
    want = torch.zeros(tokens, width, dtype=torch.float64)
    for t in range(tokens):
        for slot in range(k):
            if positions[t, slot] < len(rows):
                want[t] += rows[positions[t, slot]].double() * (1.0 if weights is None else float(weights[t, slot]))
    y = weighted_sum(rows, positions, weights)
    assert y.dtype == (torch.float64 if rows_dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(y.double(), want, rtol=1e-6, atol=1e-6)


def test_a_slot_that_is_absent_reads_nobody() -> None:
    rows = torch.tensor([[torch.inf, torch.nan], [1.0, 2.0]])
    y = weighted_sum(rows, torch.tensor([[2, 1], [0, 2], [2, 2]]), torch.full((3, 2), 0.5))
    assert y[0].tolist() == [0.5, 1.0]
    assert not y[1].isfinite().any()
    assert y[2].tolist() == [0.0, 0.0]


def test_weighted_sum_of_nothing() -> None:
    assert weighted_sum(torch.empty(0, 4), torch.zeros(3, 2, dtype=torch.int64)).tolist() == [[0.0] * 4] * 3
    assert weighted_sum(torch.empty(5, 4), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 4)


def test_the_sum_goes_in_slot_order_whatever_it_is_batched_with() -> None:
    rows, positions, weights = torch.randn(90, 33), torch.randperm(90).view(15, 6), torch.rand(15, 6)
    y = weighted_sum(rows, positions, weights)
    for t in range(15):
        alone = weighted_sum(rows[positions[t]], torch.arange(6)[None], weights[t, None])
        assert torch.equal(alone[0], y[t])


def test_without_positions_the_slots_of_a_token_are_neighbours() -> None:
    rows, weights = torch.randn(12, 5), torch.rand(4, 3)
    positions = torch.arange(12).view(4, 3)
    assert torch.equal(weighted_sum(rows, None, weights), weighted_sum(rows, positions, weights))
    assert weighted_sum(torch.empty(0, 5), None, torch.empty(0, 3)).shape == (0, 5)
