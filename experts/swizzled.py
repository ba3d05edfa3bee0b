"""gpt-oss experts in MXFP4 on a GPU, in the order in which its matrix instructions want them.

The checkpoint's bytes, rearranged while they stream in, an expert at a time, on the device. Shapes: see base.py.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.gpu.experts_plan import Choice
from ..kernels.gpu.mxfp4_layout import Swizzled
from ..weights.slot import Put, Slot
from .base import ExpertShard
from .slots import bias_slots, check_blocks, packed_slots, room


class SwizzledExperts(nn.Module):
    """As small as `PackedExperts`; `dtype`, that of biases and activations, is bfloat16. `plans` chooses the tiles."""

    def __init__(self, shard: ExpertShard, *, dtype: torch.dtype, device: torch.device, plans: Choice) -> None:
        super().__init__()
        check_blocks(shard)
        self.shard, self.plans = shard, plans
        e, f, hidden = len(shard.experts), len(shard.columns), shard.hidden
        self._gate_up = Swizzled.empty(e, 2 * f, hidden, True, device)
        self._down = Swizzled.empty(e, hidden, f, False, device)
        for name, matrix in (("gate_up", self._gate_up), ("down", self._down)):
            self.register_buffer(f"{name}_words", matrix.words)
            self.register_buffer(f"{name}_scales", matrix.scales)
        self.gate_up_bias = room(e, 2 * f, dtype=dtype, device=device)
        self.down_bias = room(e, hidden, dtype=dtype, device=device)

    def run(self, x_MD: torch.Tensor, keys: torch.Tensor, token_R: torch.Tensor | None = None) -> torch.Tensor:
        """See `ExpertStore.run`."""
        from ..kernels.gpu.experts_mxfp4 import moe_experts_mxfp4  # imports triton

        down_bias = self.down_bias if self.shard.first else None
        return moe_experts_mxfp4(
            x_MD, keys, self._gate_up, self.gate_up_bias, self._down, down_bias, self.shard.glu, token_R, self.plans
        )

    def slots(self, prefix: str) -> list[Slot]:
        """`gate_up_proj` and `down_proj`, `_blocks` and `_scales`, and both `_bias`."""
        return [
            *packed_slots(prefix, "gate_up_proj", self.shard, *_swizzling(self._gate_up)),
            *packed_slots(prefix, "down_proj", self.shard, *_swizzling(self._down)),
            *bias_slots(prefix, self.shard, self.gate_up_bias, self.down_bias),
        ]


def _swizzling(target: Swizzled) -> tuple[Put, Put]:
    """`put`s for scales, kept until used, and for blocks, rearranged on the target's device."""
    scales: dict[int, torch.Tensor] = {}
    device = target.words.device

    def put_scales(offset: int, chunk: torch.Tensor) -> None:
        for i, expert in enumerate(chunk):
            scales[offset + i] = expert.to(device, copy=True)

    def put_blocks(offset: int, chunk: torch.Tensor) -> None:
        for i, expert in enumerate(chunk):
            target.put(offset + i, expert.to(device), scales.pop(offset + i))

    return put_scales, put_blocks
