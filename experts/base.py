"""How rows meet expert weights, wherever those live. An expert store knows its own experts and nothing of ranks.

M tokens, K experts a token, R pairs of a token and an expert, D model width, E experts of the model, e of this store,
F expert width, f of this store's slice of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..kernels.glu import Glu
from ..weights.slot import Slot


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
    glu: Glu
    first: bool = True


class ExpertStore(Protocol):
    """The experts of one layer."""

    def run(self, x_MD: torch.Tensor, keys: torch.Tensor, token_R: torch.Tensor | None = None) -> torch.Tensor:
        """Token m through expert keys[m, k]: a row for every pair, of the shape of `keys`, and D, in x's dtype.

        `keys` int64 are (M, K), or (R,) where `token_R` int64 says whose pair each is. The key e means that the expert
        is not in this store: that pair's row is unspecified.
        """

    def slots(self, prefix: str) -> list[Slot]:
        """What the checkpoint must bring; `prefix` ends in a dot, e.g. "model.layers.3.mlp.experts."."""
