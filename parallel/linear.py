"""Linear layers whose weight is spread over a tensor-parallel group: by outputs, or by inputs with an all-reduce after.

T tokens, I inputs, O outputs; lower case is this rank's share. Weights are (out, in).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from ..kernels.linear import linear
from ..weights.slot import Slot, into
from .collectives import Group


@dataclass(frozen=True, slots=True)
class Part:
    """One checkpoint tensor `name` of `rows` outputs, of which this rank keeps `take`."""

    name: str
    rows: int
    take: range


def weight(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """Room for a loaded tensor."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


class ColumnLinear(nn.Module):
    """x_TI -> y_To, the parts' rows one after the other; no communication. `split(y)` gives them one by one.

    Q, K and V are three parts: `Part("q_proj", H * head_dim, rows of this rank's heads)` and so on.
    """

    def __init__(
        self, inputs: int, parts: Sequence[Part], *, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.parts = tuple(parts)
        self.sizes = [len(part.take) for part in self.parts]
        self.weight = weight(sum(self.sizes), inputs, dtype=dtype, device=device)
        self.bias = weight(sum(self.sizes), dtype=dtype, device=device) if bias else None

    def forward(self, x_TI: torch.Tensor) -> torch.Tensor:
        return linear(x_TI, self.weight, self.bias)

    def split(self, y_To: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views of the parts' columns, which may be written in place."""
        starts = accumulate(self.sizes, initial=0)
        return tuple(y_To.narrow(-1, start, size) for start, size in zip(starts, self.sizes, strict=False))

    def slots(self, prefix: str) -> list[Slot]:
        """`{prefix}{part}.weight` and `.bias`."""
        slots = []
        for part, w_oI in zip(self.parts, self.weight.split(self.sizes), strict=True):
            slots.append(Slot(f"{prefix}{part.name}.weight", (part.rows, self.inputs), into(w_oI), (part.take,)))
        if self.bias is not None:
            for part, b_o in zip(self.parts, self.bias.split(self.sizes), strict=True):
                slots.append(Slot(f"{prefix}{part.name}.bias", (part.rows,), into(b_o), (part.take,)))
        return slots


class RowLinear(nn.Module):
    """x_Ti -> y_TO, the sum over the group of each rank's share; the bias is added once, on the group's first rank."""

    def __init__(
        self,
        name: str,
        inputs: int,
        take: range,
        outputs: int,
        tp: Group,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.name, self.inputs, self.take, self.outputs, self.tp = name, inputs, take, outputs, tp
        self.weight = weight(outputs, len(take), dtype=dtype, device=device)
        self.bias = weight(outputs, dtype=dtype, device=device) if bias else None

    def forward(self, x_Ti: torch.Tensor) -> torch.Tensor:
        return self.tp.all_reduce_(linear(x_Ti, self.weight, self.bias if self.tp.index == 0 else None))

    def slots(self, prefix: str) -> list[Slot]:
        """`{prefix}{name}.weight` and `.bias`."""
        shape = (self.outputs, self.inputs)
        slots = [Slot(f"{prefix}{self.name}.weight", shape, into(self.weight), (range(self.outputs), self.take))]
        if self.bias is not None:
            slots.append(Slot(f"{prefix}{self.name}.bias", (self.outputs,), into(self.bias)))
        return slots
