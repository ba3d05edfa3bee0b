"""Grouped-query attention over the paged cache, its heads spread over a tensor-parallel group.

T tokens of the group's step, B of them decoding; D model width, H and h this rank's query and key-value heads, d head
width. See step_input.py for what a step brings.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels import attention as kernels
from ..kernels.reference.rope import apply_rope
from ..parallel.collectives import Group
from ..parallel.heads import split_heads
from ..parallel.linear import ColumnLinear, Part, RowLinear, weight
from ..weights.slot import Slot, into
from .step_input import GroupInput, StepInput


class Attention(nn.Module):
    """x_TD -> y_TD, whole on every rank of the group (all-reduce after the output projection).

    `window` W: a token sees itself and the W - 1 before it. `sinks`: one learned logit a head joins each softmax and
    takes its share of the weight away (gpt-oss).
    """

    def __init__(
        self,
        hidden: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        tp: Group,
        *,
        window: int | None,
        sinks: bool,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.window = num_heads, head_dim, window
        self.heads, self.kv_heads = split_heads(num_heads, num_kv_heads, tp.size, tp.index)
        q_rows, kv_rows = _rows(self.heads, head_dim), _rows(self.kv_heads, head_dim)
        parts = [
            Part("q_proj", num_heads * head_dim, q_rows),
            Part("k_proj", num_kv_heads * head_dim, kv_rows),
            Part("v_proj", num_kv_heads * head_dim, kv_rows),
        ]
        self.qkv = ColumnLinear(hidden, parts, bias=bias, dtype=dtype, device=device)
        self.o = RowLinear("o_proj", num_heads * head_dim, q_rows, hidden, tp, bias=bias, dtype=dtype, device=device)
        self.sinks = weight(len(self.heads), dtype=torch.float32, device=device) if sinks else None

    def forward(
        self,
        x_TD: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        step: StepInput,
        group: GroupInput,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        q, k, v = self.qkv.split(self.qkv(x_TD))
        q_THd = apply_rope(q.unflatten(-1, (-1, self.head_dim)), *rope)
        k_Thd = apply_rope(k.unflatten(-1, (-1, self.head_dim)), *rope)
        v_Thd = v.unflatten(-1, (-1, self.head_dim))
        return self.o(self._attend(q_THd, k_Thd, v_Thd, step, group, k_cache, v_cache).flatten(1))

    def _attend(
        self,
        q_THd: torch.Tensor,
        k_Thd: torch.Tensor,
        v_Thd: torch.Tensor,
        step: StepInput,
        group: GroupInput,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        """Chunks read the cache, then all new keys are written, then decoding tokens read them: the order matters."""
        options = (self.sinks, self.window, self.head_dim**-0.5)
        out_THd = torch.empty_like(q_THd)
        for chunk, prior_M in zip(step.chunks, group.priors, strict=True):
            rows = slice(chunk.low, chunk.high)
            out_THd[rows] = kernels.chunk_attention(
                q_THd[rows], k_Thd[rows], v_Thd[rows], k_cache, v_cache, prior_M, *options
            )
        kernels.store(k_Thd, v_Thd, k_cache, v_cache, group.store_rows_W, group.store_slots_W)
        if step.decodes:
            rows = slice(step.decodes)
            out_THd[rows] = kernels.decode_attention(
                q_THd[rows], k_cache, v_cache, group.pages_BP, group.first_B, step.positions_T[rows], *options
            )
        return out_THd

    def slots(self, prefix: str) -> list[Slot]:
        """`{prefix}{q,k,v,o}_proj.{weight,bias}` and `{prefix}sinks`."""
        slots = [*self.qkv.slots(prefix), *self.o.slots(prefix)]
        if self.sinks is not None:
            slots.append(Slot(f"{prefix}sinks", (self.num_heads,), into(self.sinks), (self.heads,)))
        return slots


def _rows(heads: range, head_dim: int) -> range:
    return range(heads.start * head_dim, heads.stop * head_dim)
