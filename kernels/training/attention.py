"""Attention of many chunks at once, with gradients, through torch's flash kernel on a CPU.

Twin and legend: ../reference/attention.py, which also is what trains on other devices. Chunks of like length make one
batch, filled up to the longest.

B chunks of a batch, N rows of the longest, L keys of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

LEAST_FILLED = 0.85  # of the longest's rows that a chunk in its batch must have


def prefill_attention(
    q_NHd: torch.Tensor,
    k_Nhd: torch.Tensor,
    v_Nhd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    pages_CP: torch.Tensor,
    first_C: torch.Tensor,
    offsets_C1: torch.Tensor,
    starts_C: torch.Tensor,
    sinks_H: torch.Tensor | None,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """As the twin: (N, H, d), in float32 inside."""
    size = k_cache.shape[1]
    outs, rows = [], []
    for chosen_B in _batches(offsets_C1):
        counts_B, begin_B, starts_B = offsets_C1.diff()[chosen_B], offsets_C1[chosen_B], starts_C[chosen_B]
        row_BN = torch.arange(int(counts_B.max()), device=q_NHd.device).expand(len(chosen_B), -1)
        real_BN = row_BN < counts_B[:, None]
        at_BN = torch.where(real_BN, begin_B[:, None] + row_BN, begin_B[:, None])
        # What stands before the chunks, from the oldest position that any of them may see.
        oldest_B = first_C[chosen_B] if window is None else (starts_B - window + 1).maximum(first_C[chosen_B])
        before = int((starts_B - oldest_B).max())
        place_BM = oldest_B[:, None] + torch.arange(before, device=q_NHd.device)
        column_BM = ((place_BM - first_C[chosen_B, None]) // size).clamp(max=pages_CP.shape[1] - 1)
        slot_BM = pages_CP[chosen_B].gather(1, column_BM) * size + place_BM % size
        past_BM = place_BM < starts_B[:, None]
        slot_BM = torch.where(past_BM, slot_BM, slot_BM[:, :1])
        keys, values = (
            torch.cat((_rows(cache.flatten(0, 1), slot_BM), _rows(new, at_BN)), 1).float()
            for cache, new in ((k_cache, k_Nhd), (v_cache, v_Nhd))
        )
        query_BN1 = (starts_B[:, None] + row_BN)[..., None]
        key_BL = torch.cat((place_BM, starts_B[:, None] + row_BN), 1)[:, None]
        seen_BNL = (key_BL <= query_BN1) & torch.cat((past_BM, real_BN), 1)[:, None]
        if window is not None:
            seen_BNL &= key_BL > query_BN1 - window
        out_BNHd = _attend(_rows(q_NHd, at_BN).float(), keys, values, seen_BNL, sinks_H, scale)
        outs.append(out_BNHd[real_BN])
        rows.append(at_BN[real_BN])
    if not outs:
        return torch.empty_like(q_NHd)
    out_NHd = torch.cat(outs).to(q_NHd.dtype)
    return out_NHd.index_select(0, torch.cat(rows).argsort())


def _rows(x_N: torch.Tensor, index_BN: torch.Tensor) -> torch.Tensor:
    """x[index] of whole rows: some three times as fast as indexing, with gradients too."""
    return x_N.index_select(0, index_BN.flatten()).unflatten(0, index_BN.shape)


def _attend(
    q_BNHd: torch.Tensor,
    k_BLhd: torch.Tensor,
    v_BLhd: torch.Tensor,
    seen_BNL: torch.Tensor,
    sinks_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Every row sees a key at least: its own, or where it fills up, the chunk's first."""
    group = q_BNHd.shape[2] // k_BLhd.shape[2]
    k_BLHd, v_BLHd = (x.repeat_interleave(group, 2) for x in (k_BLhd, v_BLhd))
    q, k, v = (x.transpose(1, 2) for x in (q_BNHd, k_BLHd, v_BLHd))
    return _Flash.apply(q, k, v, seen_BNL[:, None], sinks_H, scale).transpose(1, 2)


class _Flash(torch.autograd.Function):
    """torch's kernel on a CPU, and a sink: as if one more key had that score and the value 0.

    The kernel's backward pass makes weights of scores with the log-sum-exp that it is given, and corrects them by the
    output that it is given; with the sink in both it is that of the softmax with the sink.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        seen: torch.Tensor,
        sinks_H: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        bias = torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(~seen, float("-inf"))
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = flash(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
        if sinks_H is not None:
            whole = torch.logaddexp(lse, sinks_H.to(lse.dtype)[:, None])
            out, lse = out * (lse - whole).exp()[..., None].to(out.dtype), whole
        ctx.save_for_backward(q, k, v, bias, sinks_H, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        q, k, v, bias, sinks_H, out, lse = ctx.saved_tensors
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grads = flash(grad, q, k, v, out, lse, 0.0, False, attn_mask=bias, scale=ctx.scale)
        sinks_grad_H = None
        if sinks_H is not None:
            share = (sinks_H.to(lse.dtype)[:, None] - lse).exp()
            sinks_grad_H = -(share * (grad * out).sum(-1)).sum((0, 2)).to(sinks_H.dtype)
        return *grads, None, sinks_grad_H, None


def _batches(offsets_C1: torch.Tensor) -> Iterator[torch.Tensor]:
    """Chunks of like length together."""
    counts_C = offsets_C1.diff()
    order = counts_C.argsort(descending=True, stable=True).tolist()
    counts = counts_C.tolist()
    batch: list[int] = []
    for chunk in order:
        if batch and counts[chunk] < LEAST_FILLED * counts[batch[0]]:
            yield torch.tensor(batch, device=offsets_C1.device)
            batch = []
        if counts[chunk]:
            batch.append(chunk)
    if batch:
        yield torch.tensor(batch, device=offsets_C1.device)
