from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yardmaster.parallel.collectives import Group

HERE = Path(__file__).parent
Ranks = Callable[..., list[Any]]


def test_every_collective_of_three_ranks(ranks: Ranks) -> None:
    assert ranks(HERE / "collectives_ranks.py", 3) == [True] * 3


def test_a_group_of_one_hands_its_input_back() -> None:
    group, x = Group([4]), torch.randn(3, 2)
    for y in (
        group.all_reduce_(x),
        group.all_gather(x, [3]),
        group.reduce_scatter(x, [3]),
        group.all_to_all(x, [3], [3]),
    ):
        assert y is x
    assert group.all_gather_counts(1, 2) == [[1, 2]]
    assert group.broadcast_bytes(b"abc") == b"abc"
    assert (group.index, group.size, group.ranks) == (0, 1, (4,))


def test_a_group_of_two_needs_a_process_group() -> None:
    with pytest.raises(ValueError, match="process group"):
        Group([0, 1])


@pytest.mark.parametrize("how", ["dies", "sleeps", "never comes"])
def test_a_lost_rank_ends_the_others_by_the_deadline(ranks: Ranks, how: str) -> None:
    outcomes = ranks(HERE / "lost_ranks.py", 3, may_die=True, HOW=how)
    for rank, (message, seconds) in enumerate(outcomes[:2]):
        assert message.startswith(f"rank {rank}: ")
        assert "\n" not in message
        assert seconds < 8, message  # one that dies is noticed: the deadline is later
        assert ("did not all meet" if how == "never comes" else "died or is late") in message
