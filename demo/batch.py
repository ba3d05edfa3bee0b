"""Samples of one training step as two steps of the model: the system messages they share, and then the samples.

What a system message leaves in the cache is computed once and read by every sample behind it, as paged attention does
for chunks whose beginning is cached: what trains is the model that serves, and gradients go through its cache.

T rows of the samples, S of them with a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from ..cache.spec import CacheSpec, GroupSpec
from ..layers.step_input import GroupInput, StepInput
from .sample import NOTHING, Sample

PAGE = 16


@dataclass(frozen=True, slots=True)
class Batch:
    spec: CacheSpec
    heads: StepInput
    samples: StepInput
    rows_S: torch.Tensor
    targets_S: torch.Tensor

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        windows: Sequence[tuple[tuple[int, ...], int | None]],
        device: torch.device | str = "cpu",
    ) -> Batch:
        """`windows`: the layers of each cache group, and their window."""
        with torch.device(device):
            heads = list(dict.fromkeys(sample.head for sample in samples))
            pages = [-(-len(head) // PAGE) for head in heads]
            starts = list(accumulate(pages, initial=0))
            place = {head: index for index, head in enumerate(heads)}
            table = torch.zeros(len(heads), max(pages), dtype=torch.int64)
            for index, count in enumerate(pages):
                table[index, :count] = torch.arange(starts[index], starts[index] + count)
            slots = [torch.arange(len(head)) + starts[index] * PAGE for index, head in enumerate(heads)]
            spec = CacheSpec(
                PAGE, tuple(GroupSpec(str(i), layers, window, starts[-1]) for i, (layers, window) in enumerate(windows))
            )
            kept = GroupInput(None, torch.cat(slots), table, torch.zeros(len(heads), dtype=torch.int64))
            mine = torch.tensor([place[sample.head] for sample in samples])
            none = torch.empty(0, dtype=torch.int64)
            read = GroupInput(none, none, table[mine], torch.zeros(len(samples), dtype=torch.int64))
            first = _step([list(head) for head in heads], [0] * len(heads), [kept] * len(windows))
            then = _step(
                [sample.ids for sample in samples], [len(sample.head) for sample in samples], [read] * len(windows)
            )
            targets_T = torch.tensor([target for sample in samples for target in sample.targets])
            rows_S = (targets_T != NOTHING).nonzero()[:, 0]
            return cls(spec, first, then, rows_S, targets_T[rows_S])


def _step(ids: Sequence[list[int]], starts: Sequence[int], groups: list[GroupInput]) -> StepInput:
    """All of `ids` as chunks, each from its start on."""
    counts = [len(each) for each in ids]
    return StepInput(
        token_ids_T=torch.tensor([token for each in ids for token in each]),
        positions_T=torch.cat(
            [torch.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
        ),
        decodes=0,
        offsets_C1=torch.tensor([0, *accumulate(counts)]),
        starts_C=torch.tensor(starts),
        groups=groups,
        logit_rows_S=None,
    )
