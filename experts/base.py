"""How rows meet expert weights, wherever those live. An expert store knows its own experts and nothing of ranks.

R rows, D model width, E experts of the model, e of this store, F expert width, f of this store's slice of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..weights.slot import Slot

SWIGLU_ALPHA = 1.702  # gpt-oss model card: gate * sigmoid(1.702 * gate)


@dataclass(frozen=True, slots=True)
class ExpertShard:
    """Which part of a layer's experts a store holds: `experts` of `num_experts`, `columns` of each one's `width`.

    When several stores share one expert's width, `first` is true for the one that adds the output bias.
    """

    num_experts: int
    hidden: int
    width: int
    experts: range
    columns: range
    limit: float  # SwiGLU clamp
    first: bool = True
    alpha: float = SWIGLU_ALPHA


class ExpertStore(Protocol):
    """The experts of one layer."""

    def run(self, rows_RD: torch.Tensor, counts_e: torch.Tensor) -> torch.Tensor:
        """Rows grouped by local expert, counts_e int64 rows of each -> new rows_RD in the same order and dtype."""

    def slots(self, prefix: str) -> list[Slot]:
        """What the checkpoint must bring; `prefix` ends in a dot, e.g. "model.layers.3.mlp.experts."."""
