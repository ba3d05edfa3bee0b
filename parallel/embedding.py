"""Token embedding and output head, with the vocabulary spread over a tensor-parallel group.

T tokens, D model width, V vocabulary, v this rank's share of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..kernels.linear import linear
from ..weights.slot import Slot, into
from .collectives import Group
from .layout import split
from .linear import weight


class VocabEmbedding(nn.Module):
    """ids_T -> x_TD. Each rank looks up the ids of its own share; the sum over the group has them all."""

    def __init__(self, vocab: int, hidden: int, tp: Group, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.vocab, self.hidden, self.tp = vocab, hidden, tp
        self.share = split(vocab, tp.size, tp.index)
        self.weight = weight(len(self.share), hidden, dtype=dtype, device=device)

    def forward(self, ids_T: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """ids_T int64 in 0 … vocab - 1 (the engine's door has checked them) -> x_TD of `dtype`."""
        if self.tp.size == 1:
            return F.embedding(ids_T, self.weight).to(dtype)
        local_T = ids_T - self.share.start
        away_T = (local_T < 0) | (local_T >= len(self.share))
        if len(self.share) == 0:  # more ranks than words
            x_TD = torch.zeros((len(ids_T), self.hidden), dtype=dtype, device=ids_T.device)
        else:
            x_TD = F.embedding(local_T.masked_fill(away_T, 0), self.weight).to(dtype).masked_fill(away_T[:, None], 0)
        return self.tp.all_reduce_(x_TD)

    def slots(self, prefix: str) -> list[Slot]:
        """`{prefix}weight`."""
        return [Slot(f"{prefix}weight", (self.vocab, self.hidden), into(self.weight), (self.share,))]


class VocabHead(nn.Module):
    """x_TD -> logits_TV in x's dtype, whole on every rank of the group. `tied`: with the embedding's weight."""

    def __init__(
        self,
        vocab: int,
        hidden: int,
        tp: Group,
        *,
        dtype: torch.dtype,
        device: torch.device,
        tied: VocabEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.vocab, self.hidden, self.tp, self.tied = vocab, hidden, tp, tied is not None
        self.sizes = [len(split(vocab, tp.size, index)) for index in range(tp.size)]
        self.share = split(vocab, tp.size, tp.index)
        self.weight = weight(len(self.share), hidden, dtype=dtype, device=device) if tied is None else tied.weight

    def forward(self, x_TD: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """`out` takes the logits when it is given, and is what is returned."""
        if self.tp.size == 1 and out is not None and x_TD.is_cuda and self.weight.dtype == x_TD.dtype:
            return torch.mm(x_TD, self.weight.t(), out=out)
        logits_TV = linear(x_TD, self.weight)
        if self.tp.size > 1:
            logits_TV = self.tp.all_gather(logits_TV.t().contiguous(), self.sizes).t()
        return logits_TV.contiguous() if out is None else out.copy_(logits_TV)

    def slots(self, prefix: str) -> list[Slot]:
        """`{prefix}weight`; none when tied."""
        if self.tied:
            return []
        return [Slot(f"{prefix}weight", (self.vocab, self.hidden), into(self.weight), (self.share,))]
