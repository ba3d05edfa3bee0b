"""gpt-oss experts held in memory as plain matrices, whatever the checkpoint has. Shapes: see base.py; g = 2f, gate and

up interleaved.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.experts import moe_experts
from ..kernels.gpu.experts_plan import Choice
from ..kernels.reference.mxfp4 import unpack
from ..weights.slot import Put, Slot
from .base import ExpertShard
from .slots import bias_slots, check_blocks, packed_slots, pairs, room


class ResidentExperts(nn.Module):
    """Dense weights (out, in) in `dtype`, from a checkpoint in floats or, with `packed_source`, in MXFP4.

    A packed source is expanded while it streams in, an expert at a time: exact in bfloat16 and float32. `plans` chooses
    the tiles of a GPU.
    """

    def __init__(
        self,
        shard: ExpertShard,
        *,
        dtype: torch.dtype,
        device: torch.device,
        packed_source: bool,
        plans: Choice | None = None,
    ) -> None:
        super().__init__()
        self.shard, self.packed_source, self.plans = shard, packed_source, plans
        e, f, hidden = len(shard.experts), len(shard.columns), shard.hidden
        self.gate_up = room(e, 2 * f, hidden, dtype=dtype, device=device)
        self.gate_up_bias = room(e, 2 * f, dtype=dtype, device=device)
        self.down = room(e, hidden, f, dtype=dtype, device=device)
        self.down_bias = room(e, hidden, dtype=dtype, device=device)
        if packed_source:
            check_blocks(shard)

    def run(self, x_MD: torch.Tensor, keys: torch.Tensor, token_R: torch.Tensor | None = None) -> torch.Tensor:
        """See `ExpertStore.run`."""
        return moe_experts(
            x_MD,
            keys,
            self.gate_up,
            self.gate_up_bias,
            self.down,
            self.down_bias if self.shard.first else None,
            self.shard.glu,
            token_R,
            plan=self.plans,
        )

    def slots(self, prefix: str) -> list[Slot]:
        """`gate_up_proj`, `down_proj` (or their `_blocks` and `_scales`) and both `_bias`."""
        s = self.shard
        biases = bias_slots(prefix, s, self.gate_up_bias, self.down_bias)
        if self.packed_source:
            return [
                *packed_slots(prefix, "gate_up_proj", s, *_expanding(self.gate_up)),
                *packed_slots(prefix, "down_proj", s, *_expanding(self.down)),
                *biases,
            ]
        e, hidden, width = s.num_experts, s.hidden, s.width
        whole = range(hidden)
        return [
            Slot(f"{prefix}gate_up_proj", (e, hidden, 2 * width), _turning(self.gate_up), (s.experts, whole, pairs(s))),
            Slot(f"{prefix}down_proj", (e, width, hidden), _turning(self.down), (s.experts, s.columns, whole)),
            *biases,
        ]


def _turning(target: torch.Tensor) -> Put:
    """A `put` for (experts, in, out) of the bfloat16 layout into (e, out, in)."""

    def put(offset: int, chunk: torch.Tensor) -> None:
        for i, expert in enumerate(chunk):
            target[offset + i].copy_(expert.t())

    return put


def _expanding(target: torch.Tensor) -> tuple[Put, Put]:
    """`put`s for scales, kept until used, and for blocks, expanded into `target` (e, out, in) an expert at a time."""
    scales: dict[int, torch.Tensor] = {}

    def put_scales(offset: int, chunk: torch.Tensor) -> None:
        for i, expert in enumerate(chunk):
            scales[offset + i] = expert.clone()

    def put_blocks(offset: int, chunk: torch.Tensor) -> None:
        for i, expert in enumerate(chunk):
            target[offset + i].copy_(unpack(expert, scales.pop(offset + i), target.dtype))

    return put_scales, put_blocks
