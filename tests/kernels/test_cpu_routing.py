"""The compiled choice of experts against its twin: equal logits, numbers that are none, padding, counted loads."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable

import pytest
import torch

from yardmaster.kernels.cpu import host

if not host.available():
    pytest.skip("the compiled kernels do not run on this machine", allow_module_level=True)

from yardmaster.kernels import routing as door
from yardmaster.kernels.cpu import routing as cpu
from yardmaster.kernels.reference import routing as reference
from yardmaster.kernels.routing_rule import RoutingRule

NATIVE = host.host()
AVX2 = host.Host("x86-64-v3", "", lanes=8, tokens=2, lookup=True)
NARROW = host.Host("x86-64-v3", "", lanes=4, tokens=4, lookup=False)  # the shape that NEON takes
TARGETS = [NATIVE, AVX2, NARROW] if platform.machine() == "x86_64" else [NATIVE]


def _logits(tokens: int, experts: int) -> torch.Tensor:
    logits = torch.randn(tokens, experts).round(decimals=1)  # some are equal
    for row, kind in enumerate(torch.randint(0, 8, (tokens,)).tolist()):
        match kind:
            case 0:
                logits[row, random.randrange(experts)] = float("nan")
            case 1:
                logits[row] = random.choice((float("-inf"), float("nan"), 2.5))
            case 2:
                logits[row, torch.rand(experts) < 0.7] = float("-inf")
            case 3:
                logits[row] *= 1000
    return logits


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("experts", [1, 2, 5, 15, 16, 17, 32, 128, 130])
def test_matches_the_twin(target: host.Host, experts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = cpu.program(target)
    monkeypatch.setattr(cpu, "program", lambda: program)
    for tokens in (0, 1, 3, 50):
        k = random.randint(1, min(experts, 40))
        logits, rule = _logits(tokens, experts), RoutingRule(k, "top_softmax", scale=1.5)
        positions = random.choice((None, torch.randint(-1, 3, (tokens,))))
        load, twin_load = torch.full((experts,), 3), torch.full((experts,), 3)
        ids, weights = cpu.route(logits, rule, load, positions)
        want_ids, want = reference.route(logits.double(), rule, None, twin_load, positions)
        assert torch.equal(ids, want_ids)
        assert torch.equal(load, twin_load)
        assert torch.allclose(weights, want.float(), rtol=2e-6, atol=1e-30, equal_nan=True)
        again = cpu.route(logits, rule)
        alone = reference.route(logits, rule)
        assert torch.equal(again[0], alone[0])


def test_the_same_on_any_threads(threads: Callable) -> None:
    logits, rule = _logits(300, 64), RoutingRule(6, "top_softmax")
    results = []
    for count in (1, 2, 3):
        threads(count)
        load = torch.zeros(64, dtype=torch.int64)
        results.append((*(x.nan_to_num(7.0) for x in cpu.route(logits, rule, load)), load))
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


def test_refuses_what_does_not_fit() -> None:
    rule, logits = RoutingRule(2, "top_softmax"), torch.randn(3, 8)
    for load, positions in (
        (torch.zeros(7, dtype=torch.int64), None),
        (torch.zeros(8), None),
        (torch.zeros(16, dtype=torch.int64)[::2], None),
        (None, torch.zeros(2, dtype=torch.int64)),
        (None, torch.zeros(3, dtype=torch.int32)),
    ):
        with pytest.raises(ValueError, match="routing"):
            cpu.route(logits, rule, load, positions)
    with pytest.raises(ValueError, match="routing"):
        cpu.route(logits.double(), rule)
    with pytest.raises(ValueError, match="experts"):
        cpu.route(logits[:, :1], rule)


@torch.inference_mode()
def test_the_door_takes_it_for_its_rule_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, load = torch.randn(5, 48), torch.randn(16, 48).bfloat16(), torch.randn(16), torch.zeros(16).long()
    rule = RoutingRule(3, "top_softmax")
    ids, weights = door.router(x, weight, bias, rule, None, load)
    want_ids, want = reference.router(x.double(), weight.double(), bias.double(), rule)
    assert torch.equal(ids, want_ids)
    assert torch.allclose(weights, want, rtol=1e-5)
    assert load.sum() == 15
    monkeypatch.setattr(cpu, "route", lambda *_: pytest.fail("taken"))
    for other in (
        RoutingRule(3, "softmax"),
        RoutingRule(3, "sigmoid", renormalise=True),
        RoutingRule(2, "sparsemixer"),
        RoutingRule(3, "top_softmax", renormalise=True),
    ):
        got = door.router(x, weight, bias, other)
        want_ids, want = reference.router(x.double(), weight.double(), bias.double(), other)
        assert torch.equal(got[0], want_ids)
        assert torch.allclose(got[1].double(), want.double(), rtol=1e-4)
