"""Which experts a token goes to."""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.routing import router
from ..kernels.routing_rule import RoutingRule
from ..parallel.linear import weight
from ..weights.slot import Slot, into


class TopKRouter(nn.Module):
    """gpt-oss: logits with a bias, the k largest, softmax over those k. Small, so every rank holds it whole.

    x_TD -> (ids_TK int64, weights_TK float32). `chosen_E` counts on the device how often each was chosen, int64.
    """

    def __init__(self, hidden: int, num_experts: int, k: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.rule = RoutingRule(k, "top_softmax")
        self.weight = weight(num_experts, hidden, dtype=dtype, device=device)
        self.bias = weight(num_experts, dtype=dtype, device=device)
        self.chosen_E = torch.zeros(num_experts, dtype=torch.int64, device=device)

    def forward(self, x_TD: torch.Tensor, live_T: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """A row where `live_T` is negative is padding: it chooses the expert that is not there, E, uncounted."""
        return router(x_TD, self.weight, self.bias, self.rule, None, self.chosen_E, live_T)

    def load(self) -> torch.Tensor:
        """`chosen_E` as it is when the steps launched so far are done. Any thread may ask."""
        return self.chosen_E.clone()

    def slots(self, prefix: str) -> list[Slot]:
        return [
            Slot(f"{prefix}weight", tuple(self.weight.shape), into(self.weight)),
            Slot(f"{prefix}bias", tuple(self.bias.shape), into(self.bias)),
        ]
