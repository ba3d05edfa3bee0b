"""How unevenly a rank's tokens choose experts, for the heartbeat. Read by the reporter's thread."""

from __future__ import annotations

from collections.abc import Sequence

from ..layers.moe import MoE
from .host_copy import HostCopy


class ExpertLoad:
    """Watches the routers' totals; each `imbalance` looks at what came since the one before, and waits for no step."""

    def __init__(self, layers: Sequence[MoE]) -> None:
        self._totals = HostCopy([layer.router.chosen_E for layer in layers]) if layers else None
        self._before_LE = None if self._totals is None else self._totals.latest()

    def imbalance(self) -> list[float]:
        """By layer: how often the busiest expert was chosen over the mean of all. 1 is even, or no tokens."""
        if self._totals is None or self._before_LE is None:
            return []
        now_LE = self._totals.latest()
        new_LE = (now_LE - self._before_LE).double()
        self._before_LE = now_LE
        mean_L, most_L = new_LE.mean(dim=1), new_LE.amax(dim=1)
        return (most_L / mean_L).where(mean_L > 0, 1.0).tolist()
