"""The heartbeat's figures of the experts: right, and never waiting for the device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yardmaster.engine.expert_load import ExpertLoad
from yardmaster.engine.host_copy import HostCopy


def layers(*totals: torch.Tensor) -> list[Any]:
    return [SimpleNamespace(router=SimpleNamespace(chosen_E=total)) for total in totals]


def test_the_busiest_over_the_mean_of_what_came_since() -> None:
    first = torch.tensor([5, 0, 0, 900])
    second = torch.randint(0, 1 << 40, (4,))
    load = ExpertLoad(layers(first, second))
    assert load.imbalance() == [1.0, 1.0]
    first += torch.tensor([1, 2, 3, 6])
    assert load.imbalance() == [2.0, 1.0]
    second += torch.tensor([0, 8, 0, 0])
    assert load.imbalance() == [1.0, 4.0]
    assert load.imbalance() == [1.0, 1.0]


def test_a_model_without_experts() -> None:
    assert ExpertLoad([]).imbalance() == []


def test_a_copy_is_the_callers_own() -> None:
    one, other = torch.randint(0, 9, (3,)), torch.randint(0, 9, (3,))
    copy = HostCopy([one, other])
    want = torch.stack([one, other])
    got = copy.latest()
    one += 1
    assert torch.equal(got, want)
    assert torch.equal(copy.latest(), want + torch.tensor([[1], [0]]))


@pytest.mark.gpu
def test_a_copy_does_not_wait_for_the_steps() -> None:
    ones = torch.ones(4, dtype=torch.int64, device="cuda")
    copy = HostCopy([ones, ones + 1])
    ones += 4
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 31)  # a second or so of the stream that steps run on
    busy = torch.cuda.current_stream().record_event()
    seen = [copy.latest() for _ in range(3)]
    waited = busy.query()
    torch.cuda.synchronize()
    assert not waited
    assert seen[0].tolist() == [[1] * 4, [2] * 4]  # an earlier call's, here the constructor's
    assert copy.latest().tolist() == [[5] * 4, [2] * 4]
