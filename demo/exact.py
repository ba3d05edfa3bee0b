"""How often the model would say exactly what it was to say, on held-out questions: cheap enough to ask in training.

If the likeliest token is the right one at every place of a reply, then greedy decoding says that reply; so one pass
over questions and right replies tells, without generating. A right answer in other words counts as wrong here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import date

import torch

from .batch import Batch
from .sample import Renderer
from .tasks.base import EFFORTS, Kind
from .trainee import Trainee

DAY = date(2026, 1, 2)


@torch.no_grad()
def exact(trainee: Trainee, renderer: Renderer, kinds: Iterable[Kind], count: int, seed: int) -> dict[str, list[float]]:
    """For each kind the share of graded replies that come out, by effort in the order of EFFORTS.

    `count` conversations a kind and effort, the same ones for the same seed.
    """
    found: dict[str, list[float]] = {}
    for kind in kinds:
        found[kind.name] = []
        for effort in EFFORTS:
            rng = random.Random(f"{seed} {kind.name}")
            drawn = [kind.draw(rng, True) for _ in range(count)]
            samples = [renderer.render(conversation, effort, DAY) for conversation in drawn]
            right = trainee.right(Batch.of(samples, trainee.windows, trainee.device))
            marks, start = [], 0
            for conversation, sample in zip(drawn, samples, strict=True):
                for turn, span in zip(conversation.turns, sample.spans, strict=True):
                    if turn.graded and span is not None:
                        marks.append(bool(right[start + span[0] : start + span[1] + 1].all()))
                start += len(sample.ids)
            found[kind.name].append(sum(marks) / max(1, len(marks)))
    return found
