"""The dense layer that some models have in place of a mixture of experts: one gated product for every token.

T tokens, D model width, f this rank's share of the layer's own width.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.experts import apply_glu
from ..kernels.glu import Glu
from ..parallel.collectives import Group
from ..parallel.dispatch.base import Addend
from ..parallel.layout import split
from ..parallel.linear import ColumnLinear, Part, RowLinear
from ..weights.slot import Slot


class GatedMLP(nn.Module):
    """x_TD -> what is to be added to the residual stream; its width is shared out over the tensor-parallel group.

    Gates and ups are interleaved, as in gpt-oss' experts.
    """

    def __init__(
        self, hidden: int, width: int, glu: Glu, tp: Group, *, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.glu = glu
        mine = split(width, tp.size, tp.index)
        pairs = Part("gate_up_proj", 2 * width, range(2 * mine.start, 2 * mine.stop))
        self.gate_up = ColumnLinear(hidden, [pairs], bias=bias, dtype=dtype, device=device)
        self.down = RowLinear("down_proj", width, mine, hidden, tp, bias=bias, dtype=dtype, device=device)

    def forward(self, x_TD: torch.Tensor, live_T: torch.Tensor | None = None) -> Addend:
        """Takes what a mixture of experts takes; to padding it gives something that means nothing."""
        return Addend(self.down(apply_glu(self.gate_up(x_TD), self.glu)))

    def slots(self, prefix: str) -> list[Slot]:
        """`{prefix}gate_up_proj` and `{prefix}down_proj`, `.weight` (out, in) and `.bias`."""
        return [*self.gate_up.slots(prefix), *self.down.slots(prefix)]
