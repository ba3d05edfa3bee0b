"""Dispatch on one rank: all experts are here and nothing travels. The oracle of the other backends. Shapes: base.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...kernels.permute import weighted_sum
from .base import Counters, Dispatched


@dataclass(frozen=True, slots=True)
class _Handle:
    weights_TK: torch.Tensor
    dtype: torch.dtype


class LocalDispatcher:
    """A `Dispatcher` for the rank that has all experts."""

    def __init__(self) -> None:
        self.counters = Counters()

    def dispatch(self, x_TD: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> Dispatched:
        self.counters.expert_rows += ids_TK.numel()
        return Dispatched(x_TD, ids_TK, None, _Handle(weights_TK, x_TD.dtype))

    def combine(self, rows: torch.Tensor, handle: _Handle) -> torch.Tensor:
        with self.counters.combining():
            return weighted_sum(rows.flatten(0, -2), None, handle.weights_TK, handle.dtype)
