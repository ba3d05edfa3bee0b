"""Which experts a token goes to."""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.linear import linear
from ..kernels.reference.routing import route_topk_softmax
from ..parallel.linear import weight
from ..weights.slot import Slot, into


class TopKRouter(nn.Module):
    """gpt-oss: logits with a bias, the k largest, softmax over those k. Small, so every rank holds it whole.

    x_TD -> (ids_TK int64, weights_TK float32).
    """

    def __init__(self, hidden: int, num_experts: int, k: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.k = k
        self.weight = weight(num_experts, hidden, dtype=dtype, device=device)
        self.bias = weight(num_experts, dtype=dtype, device=device)

    def forward(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return route_topk_softmax(linear(x_TD, self.weight, self.bias), self.k)

    def slots(self, prefix: str) -> list[Slot]:
        return [
            Slot(f"{prefix}weight", tuple(self.weight.shape), into(self.weight)),
            Slot(f"{prefix}bias", tuple(self.bias.shape), into(self.bias)),
        ]
