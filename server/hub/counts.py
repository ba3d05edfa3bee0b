"""What several front ends have counted, as one: sums that never fall, whoever of them dies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from .messages import Family

_CREATED = "_created"  # samples of that name are times: the earliest holds

_Key = tuple[str, tuple[tuple[str, str], ...]]


def families(registry: CollectorRegistry) -> list[Family]:
    """The counters and histograms of one process, for `Totals.take`."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [(sample.name, list(sample.labels.items()), sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class _Sum:
    def __init__(self) -> None:
        self._heads: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[_Key, float]] = {}

    def add(self, families: Iterable[Family]) -> None:
        for family in families:
            self._heads.setdefault(family.name, (family.text, family.kind))
            values = self._values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                key = name, tuple(labels)
                if key not in values:
                    values[key] = value
                elif name.endswith(_CREATED):
                    values[key] = min(values[key], value)
                else:
                    values[key] += value

    def families(self) -> list[Family]:
        return [
            Family(name, text, kind, [(sample, list(labels), value) for (sample, labels), value in values.items()])
            for name, (text, kind) in self._heads.items()
            for values in (self._values[name],)
        ]


class Totals(Collector):
    """Of each front end the latest totals are kept; those of one that has gone stay in the sums."""

    def __init__(self) -> None:
        self._gone = _Sum()
        self._latest: dict[int, list[Family]] = {}

    def take(self, front: int, families: list[Family]) -> None:
        """`front` tells processes apart for good."""
        self._latest[front] = families

    def bury(self, front: int) -> None:
        self._gone.add(self._latest.pop(front, ()))

    def collect(self) -> Iterator[Metric]:
        total = _Sum()
        for families in (self._gone.families(), *self._latest.values()):
            total.add(families)
        for family in total.families():
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric
