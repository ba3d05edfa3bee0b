"""gpt-oss experts held in memory: `ResidentExperts` as plain matrices, `PackedExperts` in MXFP4 as the checkpoint has

them. Which is faster and which fits is the deployment's choice (`--expert-dtype`); both read the same checkpoints'
slots, a rank its own experts and its own columns of each. Shapes: see base.py; g = 2f, gate and up interleaved.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels.experts import moe_experts, moe_experts_mxfp4
from ..kernels.gpu.experts_plan import Choice
from ..kernels.reference.mxfp4 import unpack
from ..weights.slot import PACKED, Put, Slot, into
from .base import ExpertShard

BLOCK = 32  # values that share an MXFP4 scale


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
            Slot(
                f"{prefix}gate_up_proj", (e, hidden, 2 * width), _turning(self.gate_up), (s.experts, whole, _pairs(s))
            ),
            Slot(f"{prefix}down_proj", (e, width, hidden), _turning(self.down), (s.experts, s.columns, whole)),
            *biases,
        ]


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


def room(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


def _pairs(shard: ExpertShard) -> range:
    """The gate and up rows (or columns) of the shard's columns: interleaved, so neighbours stay neighbours."""
    return range(2 * shard.columns.start, 2 * shard.columns.stop)


def check_blocks(shard: ExpertShard) -> None:
    for what, size in (("hidden_size", shard.hidden), ("intermediate_size", shard.width)):
        if size % BLOCK:
            raise ValueError(f"MXFP4 experts need {what} in multiples of {BLOCK}, got {size}")


def bias_slots(prefix: str, s: ExpertShard, gate_up: torch.Tensor, down: torch.Tensor) -> list[Slot]:
    return [
        Slot(f"{prefix}gate_up_proj_bias", (s.num_experts, 2 * s.width), into(gate_up), (s.experts, _pairs(s))),
        Slot(f"{prefix}down_proj_bias", (s.num_experts, s.hidden), into(down), (s.experts,)),
    ]


def packed_slots(prefix: str, name: str, s: ExpertShard, put_scales: Put, put_blocks: Put) -> list[Slot]:
    """Scales come first: blocks that are expanded on arrival need them."""
    shape: tuple[int, ...]
    take: tuple[range, ...]
    if name == "gate_up_proj":
        shape, take = (s.num_experts, 2 * s.width, s.hidden // BLOCK), (s.experts, _pairs(s))
    else:
        groups = range(s.columns.start // BLOCK, s.columns.stop // BLOCK)
        shape, take = (s.num_experts, s.hidden, s.width // BLOCK), (s.experts, range(s.hidden), groups)
    return [
        Slot(f"{prefix}{name}_scales", shape, put_scales, take, PACKED),
        Slot(f"{prefix}{name}_blocks", (*shape, BLOCK // 2), put_blocks, take, PACKED),
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
