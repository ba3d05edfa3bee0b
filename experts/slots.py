"""The tensors of gpt-oss experts in a checkpoint, and the part of each that a store keeps: its experts, its columns.

Shapes: see base.py; g = 2f, gate and up interleaved.
"""

from __future__ import annotations

import torch
from torch import nn

from ..weights.slot import PACKED, Put, Slot, into
from .base import ExpertShard

BLOCK = 32  # values that share an MXFP4 scale


def room(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """Memory for weights, not yet filled."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def pairs(shard: ExpertShard) -> range:
    """The gate and up rows (or columns) of the shard's columns: interleaved, so neighbours stay neighbours."""
    return range(2 * shard.columns.start, 2 * shard.columns.stop)


def check_blocks(shard: ExpertShard) -> None:
    """Raises ValueError when the model's sizes cannot be packed."""
    for what, size in (("hidden_size", shard.hidden), ("intermediate_size", shard.width)):
        if size % BLOCK:
            raise ValueError(f"MXFP4 experts need {what} in multiples of {BLOCK}, got {size}")


def bias_slots(prefix: str, s: ExpertShard, gate_up: torch.Tensor, down: torch.Tensor) -> list[Slot]:
    """Both biases, into tensors (e, 2 f) and (e, D)."""
    return [
        Slot(f"{prefix}gate_up_proj_bias", (s.num_experts, 2 * s.width), into(gate_up), (s.experts, pairs(s))),
        Slot(f"{prefix}down_proj_bias", (s.num_experts, s.hidden), into(down), (s.experts,)),
    ]


def packed_slots(prefix: str, name: str, s: ExpertShard, put_scales: Put, put_blocks: Put) -> list[Slot]:
    """Scales come first: blocks that are expanded on arrival need them."""
    shape: tuple[int, ...]
    take: tuple[range, ...]
    if name == "gate_up_proj":
        shape, take = (s.num_experts, 2 * s.width, s.hidden // BLOCK), (s.experts, pairs(s))
    else:
        groups = range(s.columns.start // BLOCK, s.columns.stop // BLOCK)
        shape, take = (s.num_experts, s.hidden, s.width // BLOCK), (s.experts, range(s.hidden), groups)
    return [
        Slot(f"{prefix}{name}_scales", shape, put_scales, take, PACKED),
        Slot(f"{prefix}{name}_blocks", (*shape, BLOCK // 2), put_blocks, take, PACKED),
    ]
