"""Where pairs stand in grouped rows (here: Triton's interpreter), one pair after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu import ungroup as module
from yardmaster.kernels.gpu.group import group
from yardmaster.kernels.gpu.ungroup import ungroup
from yardmaster.kernels.reference import permute as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SOME = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is nobody's place."""
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: real(*a, **k).fill_(-77))


def check(order: torch.Tensor, pairs: int) -> None:
    got = ungroup(order, pairs)
    assert got.dtype == torch.int64
    want = [len(order)] * pairs
    for row, pair in enumerate(order.tolist()):
        want[pair] = row
    assert got.tolist() == want


@pytest.mark.parametrize(("own", "look", "few"), [(1024, 4096, 16384), (8, 16, 16384), (8, 8, 20)])
@SOME
@given(pairs=st.integers(0, 61), missing=st.sampled_from([0, 1, 5, 30, 61]))
def test_every_pair(own: int, look: int, few: int, pairs: int, missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with several stretches, several looks, and more than a few pairs."""
    for name, value in (("OWN", own), ("LOOK", look), ("FEW", few)):
        monkeypatch.setattr(module, name, value)
    check(torch.randperm(pairs)[missing:].to(DEVICE), pairs)


def test_is_the_inverse_of_group() -> None:
    for pairs, groups in ((1, 1), (37, 4), (64, 3)):
        keys = torch.randint(0, groups + 1, (pairs,), device=DEVICE)
        here = int((keys < groups).sum())
        for rows in (None, here):
            order, _ = group(keys, groups, rows)
            check(order, pairs)
            assert torch.equal(ungroup(order, pairs), reference.ungroup(order, pairs))


@pytest.mark.parametrize("few", [16384, 0])
def test_nothing_is_written_outside(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    room = torch.full((30,), 5, device=DEVICE)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: room[10:20])
    monkeypatch.setattr(module, "FEW", few)
    ungroup(torch.tensor([3, -1, 10, 12, -(1 << 40), 1 << 40, 0], device=DEVICE), 10)
    assert room[:10].tolist() == room[20:].tolist() == [5] * 10
    assert room[10:20].tolist() == [6, 7, 7, 0, *[7] * 6]


@pytest.mark.gpu
@pytest.mark.parametrize("pairs", [1, 31, 128, 1024, 1025, 8191, 16384, 16385, 65536, 1 << 20])
def test_true_sizes_again_and_again(pairs: int) -> None:
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        order = torch.randperm(pairs, device=DEVICE)[: int(share * pairs)]
        want = reference.ungroup(order, pairs)
        for _ in range(20):  # a fill that comes after a placement is a race: not every time
            assert torch.equal(ungroup(order, pairs), want)
