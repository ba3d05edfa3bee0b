"""gpt-oss experts held in memory in MXFP4, as the checkpoint has them. Shapes: see base.py; g = 2f, interleaved."""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.experts import moe_experts_mxfp4
from ..weights.slot import Slot, into
from .base import ExpertShard
from .slots import BLOCK, bias_slots, check_blocks, packed_slots, room


class PackedExperts(nn.Module):
    """MXFP4 weights as stored: blocks (e, out, in / 32, 16) and scales (e, out, in / 32), uint8; biases in `dtype`.

    A quarter of bfloat16's memory and traffic; expanded when used.
    """

    def __init__(self, shard: ExpertShard, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        check_blocks(shard)
        self.shard = shard
        e, f, hidden = len(shard.experts), len(shard.columns), shard.hidden
        byte = torch.uint8
        self.gate_up_blocks = room(e, 2 * f, hidden // BLOCK, BLOCK // 2, dtype=byte, device=device)
        self.gate_up_scales = room(e, 2 * f, hidden // BLOCK, dtype=byte, device=device)
        self.gate_up_bias = room(e, 2 * f, dtype=dtype, device=device)
        self.down_blocks = room(e, hidden, f // BLOCK, BLOCK // 2, dtype=byte, device=device)
        self.down_scales = room(e, hidden, f // BLOCK, dtype=byte, device=device)
        self.down_bias = room(e, hidden, dtype=dtype, device=device)

    def run(self, x_MD: torch.Tensor, keys: torch.Tensor, token_R: torch.Tensor | None = None) -> torch.Tensor:
        """See `ExpertStore.run`."""
        return moe_experts_mxfp4(
            x_MD,
            keys,
            self.gate_up_blocks,
            self.gate_up_scales,
            self.gate_up_bias,
            self.down_blocks,
            self.down_scales,
            self.down_bias if self.shard.first else None,
            self.shard.glu,
            token_R,
        )

    def slots(self, prefix: str) -> list[Slot]:
        """`gate_up_proj` and `down_proj`, `_blocks` and `_scales`, and both `_bias`."""
        s = self.shard
        return [
            *packed_slots(prefix, "gate_up_proj", s, into(self.gate_up_scales), into(self.gate_up_blocks)),
            *packed_slots(prefix, "down_proj", s, into(self.down_scales), into(self.down_blocks)),
            *bias_slots(prefix, s, self.gate_up_bias, self.down_bias),
        ]
