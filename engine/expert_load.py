"""How unevenly the work falls on a rank's experts, for the heartbeat. Read by the reporter's thread."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..layers.moe import MoE


class ExpertLoad:
    """Watches the MoE layers' totals; each `imbalance` looks at what came since the one before."""

    def __init__(self, layers: Sequence[MoE]) -> None:
        self._layers = layers
        self._before: list[torch.Tensor] = [layer.load() for layer in layers]

    def imbalance(self) -> list[float]:
        """By layer: the most rows that one local expert ran over the mean of all. 1 is even, or no rows."""
        now = [layer.load() for layer in self._layers]
        ratios = []
        for load, before in zip(now, self._before, strict=True):
            new_e = (load - before).double()
            mean = float(new_e.mean()) if len(new_e) else 0.0
            ratios.append(float(new_e.max()) / mean if mean > 0 else 1.0)
        self._before = now
        return ratios
