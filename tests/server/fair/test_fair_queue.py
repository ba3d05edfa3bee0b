"""Fair queueing against the textbook's tags per packet, its bound on unfairness, and who may still wait."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from yardmaster.server.fair.fair_queue import FairQueue, Flow


@dataclass(frozen=True)
class Item:
    order: tuple[Any, ...]
    cost: int
    flow: int = 0


class Textbook:
    """Start-time fair queueing as the paper has it: a packet gets its tags as it arrives. No other order in a flow."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights
        self.finish = [0.0] * len(weights)
        self.now = 0.0
        self.packets: list[tuple[float, int, int, Item]] = []

    def push(self, item: Item) -> None:
        start = max(self.now, self.finish[item.flow])
        self.finish[item.flow] = start + item.cost / self.weights[item.flow]
        self.packets.append((start, item.flow, item.order[0], item))

    def pop(self) -> Item:
        first = min(self.packets, key=lambda packet: packet[:3])
        self.packets.remove(first)
        self.now = first[0]
        return first[3]


def flows_of(weights: list[float]) -> list[Flow[Item]]:
    return [Flow(number, weight) for number, weight in enumerate(weights)]


@pytest.mark.parametrize("seed", range(30))
def test_it_serves_in_the_textbooks_order(seed: int) -> None:
    rng = random.Random(seed)
    weights = [rng.choice((0.25, 0.5, 1.0, 2.0, 8.0)) for _ in range(rng.randrange(1, 7))]
    queue, textbook, flows = FairQueue[Item](1 << 20), Textbook(weights), flows_of(weights)
    for number in range(600):
        if rng.random() < (0.6 if number < 300 else 0.4):
            item = Item((number,), rng.randrange(1, 5000), rng.randrange(len(weights)))
            queue.push(flows[item.flow], item)
            textbook.push(item)
        elif queue:
            assert queue.pop() == textbook.pop()
        assert len(queue) == len(textbook.packets)
    while queue:
        assert queue.pop() == textbook.pop()
    with pytest.raises(IndexError):
        queue.pop()


@pytest.mark.parametrize("weights", [[1.0, 1.0], [3.0, 1.0], [10.0, 0.1, 1.0]])
def test_service_is_by_weight_within_the_bound(weights: list[float]) -> None:
    rng = random.Random(repr(weights))
    queue, flows = FairQueue[Item](1 << 20), flows_of(weights)
    longest = 1000
    served = [0] * len(weights)
    for number in range(4000):
        for flow in range(len(weights)):  # the first sends long ones, the others short ones
            queue.push(flows[flow], Item((number,), rng.randrange(1, longest if flow == 0 else 50), flow))
    for _ in range(2000):
        item = queue.pop()
        served[item.flow] += item.cost
        shares = [tokens / weight for tokens, weight in zip(served, weights, strict=True)]
        assert max(shares) - min(shares) <= 2 * longest / min(weights)
    assert served[0] / served[1] == pytest.approx(weights[0] / weights[1], rel=0.25)


def test_who_was_idle_is_next_but_has_saved_nothing_up() -> None:
    queue, (busy, idle) = FairQueue[Item](100), flows_of([1.0, 1.0])
    for number in range(40):
        queue.push(busy, Item((number,), 10, 0))
    for _ in range(20):
        queue.pop()
    for number in range(20):
        queue.push(idle, Item((number,), 10, 1))
    first = [queue.pop().flow for _ in range(20)]
    assert first[:3] == [0, 1, 0] or first[:2] == [1, 0]
    assert sum(first) == 10  # by turns, not twenty at once


def test_order_within_a_flow_and_removal() -> None:
    queue, (flow, other) = FairQueue[Item](100), flows_of([1.0, 1.0])
    items = [Item((priority, number), 1) for number, priority in enumerate((5, -1, 0, 5, 0))]
    for item in items:
        queue.push(flow, item)
    alone = Item((0, 9), 1)
    queue.push(other, alone)
    queue.remove(flow, items[2])
    queue.remove(other, alone)
    assert len(queue) == 4
    assert [queue.pop() for _ in range(4)] == [items[1], items[4], items[0], items[3]]
    queue.push(other, alone)
    assert queue.pop() is alone
    assert not queue


def test_what_was_charged_wrongly_is_made_good() -> None:
    """Both use 10 tokens a request, but one says 1000 each time, and the truth comes out at the end."""
    queue, flows = FairQueue[Item](10_000), flows_of([1.0, 1.0])
    said = (1000, 10)
    for number in range(1000):
        for flow in (0, 1):
            queue.push(flows[flow], Item((number,), said[flow], flow))
    served = [0, 0]
    for _ in range(500):
        item = queue.pop()
        served[item.flow] += 1
        queue.settle(flows[item.flow], 10 - item.cost)
    assert served[0] == pytest.approx(250, abs=2)
    for _ in range(100):  # and the other way: one takes far more than it said
        item = queue.pop()
        served[item.flow] += 1
        queue.settle(flows[item.flow], 990 if item.flow == 1 else 10 - item.cost)
    assert served[1] < 255


def test_one_key_cannot_take_all_places() -> None:
    limit, weights = 100, [1.0, 1.0, 3.0]
    queue, flows = FairQueue[Item](limit), flows_of(weights)
    total = sum(weights)
    pushed = [0, 0, 0]

    def fill(flow: int) -> None:
        while queue.may_wait(flows[flow], total):
            queue.push(flows[flow], Item((pushed[flow],), 1, flow))
            pushed[flow] += 1

    fill(0)
    assert pushed == [60, 0, 0]  # the common half and its fifth of the other
    fill(2)
    assert pushed == [60, 0, 30]
    fill(1)
    assert pushed == [60, 10, 30]
    assert len(queue) == limit
    queue.pop()
    assert sum(queue.may_wait(flow, total) for flow in flows) >= 1


def test_a_single_key_has_all_places_and_many_have_one_each() -> None:
    for limit in (1, 2, 3, 101):
        queue, (flow,) = FairQueue[Item](limit), flows_of([0.5])
        while queue.may_wait(flow, 0.5):
            queue.push(flow, Item((len(queue),), 1))
        assert len(queue) == limit
    queue, flows = FairQueue[Item](4), flows_of([1.0] * 9)
    assert [queue.may_wait(flow, 9.0) and not queue.push(flow, Item((0,), 1)) for flow in flows] == [True] * 4 + [
        False
    ] * 5
