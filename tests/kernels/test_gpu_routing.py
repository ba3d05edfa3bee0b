"""Routing, grouping, gathering and summing on the GPU (here: Triton's interpreter) against their twins."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu.gather import gather
from yardmaster.kernels.gpu.group import group
from yardmaster.kernels.gpu.route import route
from yardmaster.kernels.gpu.weighted_sum import weighted_sum
from yardmaster.kernels.reference import permute as reference
from yardmaster.kernels.reference.routing import route as reference_route
from yardmaster.kernels.routing_rule import RoutingRule
from yardmaster.tests.kernels.odd_logits import odd_logits

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
SOME = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])

RULES = {
    "gpt-oss": RoutingRule(4, "top_softmax"),
    "mixtral": RoutingRule(2, "softmax", renormalise=True),
    "plain": RoutingRule(5, "softmax", scale=3.0),
    "phi": RoutingRule(2, "sparsemixer", jitter=0.3),
    "deepseek": RoutingRule(3, "sigmoid", renormalise=True, scale=2.5, groups=4, kept_groups=2),
    "kimi": RoutingRule(6, "sigmoid", renormalise=True, scale=2.827),
}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN, or no expert's number."""
    real = torch.empty

    def empty(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = real(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 99)

    monkeypatch.setattr(torch, "empty", empty)


def _check_route(logits: torch.Tensor, rule: RoutingRule, correction: torch.Tensor | None) -> None:
    ids, weights = route(logits, rule, correction)
    want_ids, want = reference_route(logits.double() if logits.dtype == torch.float32 else logits, rule, correction)
    assert (ids.dtype, weights.dtype) == (torch.int64, torch.float32)
    assert torch.equal(ids, want_ids)
    torch.testing.assert_close(weights, want.float(), rtol=2e-5, atol=1e-6)


@SOME
@given(
    name=st.sampled_from(sorted(RULES)),
    tokens=st.integers(0, 9),
    experts=st.sampled_from([8, 12, 32, 36, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    corrected=st.booleans(),
)
def test_route(name: str, tokens: int, experts: int, dtype: torch.dtype, corrected: bool) -> None:
    rule = RULES[name]
    logits = odd_logits(tokens, experts, 2).to(DEVICE, dtype)
    correction = torch.randn(experts, device=DEVICE) if corrected and rule.score == "sigmoid" else None
    _check_route(logits, rule, correction)


@pytest.mark.parametrize("name", RULES)
def test_route_takes_the_lowest_of_equals_and_keeps_nan_inside(name: str) -> None:
    rule = RULES[name]
    logits = torch.randint(0, 2, (6, 12)).float().to(DEVICE)
    assert torch.equal(route(logits, rule)[0], reference_route(logits, rule)[0])
    logits[2] = torch.nan
    logits[3, 5] = torch.nan
    ids, _ = route(logits, rule)
    assert all(len(set(row)) == rule.k and set(row) <= set(range(12)) for row in ids.tolist())
    assert 5 not in ids[3].tolist()


def test_groups_of_no_power_of_two() -> None:
    for experts, rule in (
        (15, RoutingRule(4, "sigmoid", groups=3, kept_groups=2)),
        (20, RoutingRule(3, "sigmoid", groups=4, kept_groups=1)),
        (24, RoutingRule(9, "sigmoid", True, groups=3, kept_groups=3)),
    ):
        for _ in range(5):
            logits = torch.randn(7, experts, device=DEVICE)
            _check_route(logits, rule, torch.randn(experts, device=DEVICE))


@pytest.mark.parametrize("name", RULES)
def test_route_of_many_tokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yardmaster.kernels.gpu.route.MANY", 1)
    for tokens, experts in ((67, 12), (9, 36), (2, 512)):
        _check_route(torch.randn(tokens, experts, device=DEVICE), RULES[name], None)


@pytest.mark.parametrize("name", RULES)
def test_route_of_broken_logits_stays_among_the_experts(name: str) -> None:
    rule = RULES[name]
    broken = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e38])
    for experts in (8, 12):
        logits = broken[torch.randint(len(broken), (40, experts))].to(DEVICE)
        corrections = [None]
        if rule.score == "sigmoid":
            corrections.append(broken[torch.randint(len(broken), (experts,))].to(DEVICE))
        for correction in corrections:
            ids, _ = route(logits, rule, correction)
            assert all(len(set(row)) == rule.k and set(row) <= set(range(experts)) for row in ids.tolist())
    zeros = torch.tensor([[-0.0, 0.0] * 6], device=DEVICE)
    assert route(zeros, rule)[0].tolist() == [list(range(rule.k))]


@SOME
@given(pairs=st.integers(0, 300), groups=st.sampled_from([0, 1, 2, 7, 32, 129]), skew=st.booleans())
def test_group(pairs: int, groups: int, skew: bool) -> None:
    keys = torch.randint(groups + 1, (pairs,), device=DEVICE)
    if skew:
        keys.fill_(groups // 2)
    order, counts = group(keys, groups)
    want_order, want_counts = reference.group(keys, groups)
    assert torch.equal(order, want_order)
    assert torch.equal(counts, want_counts)
    assert (order.dtype, counts.dtype) == (torch.int64, torch.int64)


@pytest.mark.parametrize(("pairs", "groups"), [(1, 1), (640, 0), (1300, 3), (2048, 255), (1999, 40), (1031, 513)])
@pytest.mark.parametrize("few", [0, 4096])
def test_group_over_several_programs(pairs: int, groups: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yardmaster.kernels.gpu.group.FEW", few)
    monkeypatch.setattr("yardmaster.kernels.gpu.group.STRETCHES", 5)
    keys = torch.randint(groups + 1, (pairs,), device=DEVICE)
    for rows in (None, int((keys < groups).sum())):
        order, counts = group(keys, groups, rows)
        want_order, want_counts = reference.group(keys, groups, rows)
        assert torch.equal(order, want_order)
        assert torch.equal(counts, want_counts)


@pytest.mark.parametrize("few", [0, 4096])
def test_a_key_out_of_range_is_not_here(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yardmaster.kernels.gpu.group.FEW", few)
    keys = torch.tensor([1, -1, 0, 9, 1, 1 << 40, 4, 3, 1 - (1 << 32)], device=DEVICE)
    order, counts = group(keys, 3)
    assert order.tolist() == [2, 0, 4, 1, 3, 5, 6, 7, 8]
    assert counts.tolist() == [1, 2, 0]


@SOME
@given(
    tokens=st.integers(1, 9),
    rows=st.integers(0, 12),
    width=st.sampled_from([1, 2, 3, 24, 33, 1030]),
    dtype=st.sampled_from([torch.uint8, torch.bfloat16, torch.float32]),
)
def test_gather(tokens: int, rows: int, width: int, dtype: torch.dtype) -> None:
    x = torch.randint(0, 200, (tokens, width), device=DEVICE).to(dtype)
    index = torch.randint(tokens, (rows,), device=DEVICE)
    assert torch.equal(gather(x, index), reference.gather(x, index))


@SOME
@given(
    tokens=st.integers(0, 7),
    k=st.integers(1, 5),
    width=st.sampled_from([1, 7, 64, 1030]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    absent=st.booleans(),
    weighted=st.booleans(),
)
def test_weighted_sum(tokens: int, k: int, width: int, dtype: torch.dtype, absent: bool, weighted: bool) -> None:
    rows = torch.randn(tokens * k // (1 + absent), width).to(DEVICE, dtype)
    positions = torch.randperm(tokens * k).clamp(max=len(rows)).view(tokens, k).to(DEVICE)
    weights = torch.rand(tokens, k, device=DEVICE) if weighted else None
    got = weighted_sum(rows, positions, weights)
    torch.testing.assert_close(got, reference.weighted_sum(rows, positions, weights), rtol=1e-6, atol=1e-6)
    if weighted and not absent:
        got = weighted_sum(rows, None, weights, torch.bfloat16)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), reference.weighted_sum(rows, None, weights), rtol=1e-2, atol=1e-2)


def test_an_absent_slot_reads_nobody_and_weighs_nothing() -> None:
    rows = torch.tensor([[torch.inf, torch.nan], [1.0, 2.0]], device=DEVICE)
    positions = torch.tensor([[2, 1], [0, 2], [2, 2]], device=DEVICE)
    weights = torch.tensor([[torch.inf, 0.5], [0.5, torch.nan], [torch.inf, 1.0]], device=DEVICE)
    y = weighted_sum(rows, positions, weights)
    assert y[0].tolist() == [0.5, 1.0]
    assert not y[1].isfinite().any()
    assert y[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", RULES)
def test_choices_are_counted_on_top_of_earlier_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for many in (1, 1 << 30):  # several tokens a warp, and one
        monkeypatch.setattr("yardmaster.kernels.gpu.route.MANY", many)
        logits = torch.randn(11, 36, device=DEVICE)
        load = torch.arange(36, device=DEVICE)
        ids, _ = route(logits, RULES[name], None, load)
        want = torch.arange(36) + torch.bincount(ids.flatten().cpu(), minlength=36)
        assert torch.equal(load.cpu(), want)
        twin = torch.arange(36, device=DEVICE)
        reference_route(logits, RULES[name], None, twin)
        assert torch.equal(twin, load)


@pytest.mark.parametrize("name", RULES)
def test_rows_of_padding_go_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for many in (1, 1 << 30):
        monkeypatch.setattr("yardmaster.kernels.gpu.route.MANY", many)
        logits = odd_logits(21, 36, 1).to(DEVICE)
        logits[::3] = torch.nan
        positions = torch.randint(0, 1 << 40, (21,), device=DEVICE)
        positions[::3] = -1
        load, want_load = (torch.arange(36, device=DEVICE) for _ in range(2))
        ids, weights = route(logits, RULES[name], None, load, positions)
        want_ids, want = reference_route(logits, RULES[name], None, want_load, positions)
        assert torch.equal(ids, want_ids)
        assert torch.equal(load, want_load)
        torch.testing.assert_close(weights, want, rtol=2e-5, atol=1e-6)
        assert (ids[::3] == 36).all()
        assert (weights[::3] == 0).all()
        live_ids, live = reference_route(logits[positions >= 0], RULES[name])  # as if the others were not there
        assert torch.equal(ids[positions >= 0], live_ids)
        torch.testing.assert_close(weights[positions >= 0], live, rtol=2e-5, atol=1e-6)
