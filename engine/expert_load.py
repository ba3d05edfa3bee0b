"""How unevenly a rank's tokens choose experts, for the heartbeat. Read by the reporter's thread."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..layers.moe import MoE


class ExpertLoad:
    """Watches the routers' totals; each `imbalance` looks at what came since the one before."""

    def __init__(self, layers: Sequence[MoE]) -> None:
        self._layers = layers
        self._before: list[torch.Tensor] = [layer.router.load() for layer in layers]

    def imbalance(self) -> list[float]:
        """By layer: how often the busiest expert was chosen over the mean of all. 1 is even, or no tokens."""
        now = [layer.router.load() for layer in self._layers]
        ratios = []
        for load, before in zip(now, self._before, strict=True):
            new_E = (load - before).double()
            mean = float(new_E.mean())
            ratios.append(float(new_E.max()) / mean if mean > 0 else 1.0)
        self._before = now
        return ratios
