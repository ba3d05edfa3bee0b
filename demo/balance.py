"""Keeping the experts busy alike: the auxiliary loss of the router, as gpt-oss's config names it.

T tokens, E experts, K experts a token.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.linear import linear
from ..layers.router import TopKRouter
from ..weights.slot import Slot


class WatchedRouter(nn.Module):
    """A router that also says how far from balanced its last choices were. Stands in the router's place in training."""

    def __init__(self, router: TopKRouter) -> None:
        super().__init__()
        self.router = router
        self.probabilities_TE: torch.Tensor | None = None
        self.ids_TK: torch.Tensor | None = None

    def forward(self, x_TD: torch.Tensor, live_T: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        ids_TK, weights_TK = self.router(x_TD, live_T)
        self.probabilities_TE = linear(x_TD, self.router.weight, self.router.bias).float().softmax(-1)
        self.ids_TK = ids_TK
        return ids_TK, weights_TK

    def loss(self) -> torch.Tensor:
        """E times the sum over experts of (share of the choices) times (mean probability): K when all are alike.

        Source: Switch Transformers (arXiv:2101.03961), equations 4 to 6, for K choices as transformers has it.
        """
        assert self.probabilities_TE is not None
        share_E = self.counts() / len(self.probabilities_TE)
        return len(share_E) * (share_E * self.probabilities_TE.mean(0)).sum()

    def counts(self) -> torch.Tensor:
        """How often each expert was chosen in the last step, (E,) float32."""
        assert self.probabilities_TE is not None
        assert self.ids_TK is not None
        experts = self.probabilities_TE.shape[1]
        return torch.bincount(self.ids_TK.flatten(), minlength=experts).float()

    def load(self) -> torch.Tensor:
        """See TopKRouter.load."""
        return self.router.load()

    def slots(self, prefix: str) -> list[Slot]:
        """See TopKRouter.slots."""
        return self.router.slots(prefix)
