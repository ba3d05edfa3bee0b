"""Dispatch on one rank: all experts are here and nothing travels. The oracle of the other backends. Shapes: base.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...kernels.reference.permute import group, ungroup, weighted_sum
from .base import Counters, Dispatched


@dataclass(frozen=True, slots=True)
class _Handle:
    order_R: torch.Tensor
    weights_TK: torch.Tensor
    dtype: torch.dtype


class LocalDispatcher:
    """A `Dispatcher` for the rank that has all experts."""

    def __init__(self, num_experts: int) -> None:
        self.num_experts = num_experts
        self.counters = Counters()

    def dispatch(self, x_TD: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> Dispatched:
        with self.counters.dispatching():
            order_R, counts_e = group(ids_TK.flatten(), self.num_experts)
            rows_RD = x_TD.index_select(0, order_R // ids_TK.shape[1])
            self.counters.expert_rows += len(rows_RD)
            return Dispatched(rows_RD, counts_e, _Handle(order_R, weights_TK, x_TD.dtype))

    def combine(self, rows_RD: torch.Tensor, handle: _Handle) -> torch.Tensor:
        with self.counters.combining():
            positions_TK = ungroup(handle.order_R, handle.weights_TK.numel()).view_as(handle.weights_TK)
            return weighted_sum(rows_RD, positions_TK, handle.weights_TK).to(handle.dtype)
