"""Attention of many chunks at once, with gradients, through torch's flash kernel on a CPU.

Twin and legend: ../reference/attention.py, which also is what trains on other devices. Under a window chunks
are cut into pieces, which see few keys; pieces of like length make one batch, filled up to the longest.

B pieces of a batch, N rows of the longest, L keys of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

LEAST_FILLED = 0.85  # of the longest's rows that a piece in its batch must have
PIECE = 64  # rows of a chunk that see keys of one band, at least


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
    size, device = k_cache.shape[1], q_NHd.device
    keys, values = (
        torch.cat((cache.flatten(0, 1), new)).float() for cache, new in ((k_cache, k_Nhd), (v_cache, v_Nhd))
    )
    cached = len(keys) - len(q_NHd)
    outs, rows = [], []
    for chunk_B, from_B, counts_B in _batches(_pieces(offsets_C1, window), device):
        row_N = torch.arange(int(counts_B.max()), device=device)
        real_BN = row_N < counts_B[:, None]
        row_BN = from_B[:, None] + row_N * real_BN  # filled up with the first
        start_B1, begin_B1, first_B1 = (x[chunk_B, None] for x in (starts_C, offsets_C1, first_C))
        query_BN = start_B1 + row_BN
        last_B1 = query_BN.amax(1, keepdim=True)
        # From the oldest key that the first row may see to the last row's own.
        oldest_B1 = first_B1 if window is None else (query_BN[:, :1] - window + 1).maximum(first_B1)
        key_BL = oldest_B1 + torch.arange(int((last_B1 - oldest_B1).max()) + 1, device=device)
        place_BL = key_BL.minimum(last_B1)
        column_BL = ((place_BL - first_B1) // size).clamp(max=pages_CP.shape[1] - 1)
        slot_BL = pages_CP[chunk_B].gather(1, column_BL) * size + place_BL % size
        at_BL = torch.where(place_BL < start_B1, slot_BL, cached + begin_B1 + place_BL - start_B1)
        ahead_BNL = query_BN[..., None] - key_BL[:, None]
        seen_BNL = ahead_BNL >= 0 if window is None else (ahead_BNL >= 0) & (ahead_BNL < window)
        at_BN = begin_B1 + row_BN
        out_BNHd = _attend(
            _rows(q_NHd, at_BN).float(), _rows(keys, at_BL), _rows(values, at_BL), seen_BNL, sinks_H, scale
        )
        outs.append(out_BNHd.flatten(0, 1).index_select(0, real_BN.flatten().nonzero()[:, 0]))
        rows.append(at_BN[real_BN])
    if not outs:
        return torch.empty_like(q_NHd)
    out_NHd = torch.cat(outs).to(q_NHd.dtype)
    return out_NHd.index_select(0, torch.cat(rows).argsort())


def _rows(x_N: torch.Tensor, index_BN: torch.Tensor) -> torch.Tensor:
    """x[index] of whole rows: some three times as fast as indexing, and its gradients do not depend on threads."""
    return x_N.index_select(0, index_BN.flatten()).unflatten(0, index_BN.shape)


def _attend(
    q_BNHd: torch.Tensor,
    k_BLhd: torch.Tensor,
    v_BLhd: torch.Tensor,
    seen_BNL: torch.Tensor,
    sinks_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Every row sees a key at least: its own."""
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


def _pieces(offsets_C1: torch.Tensor, window: int | None) -> list[tuple[int, int, int]]:
    """Chunk, first row in it and rows of each piece. Under a window a chunk is cut: a row sees few keys of it."""
    pieces = []
    for chunk, count in enumerate(offsets_C1.diff().tolist()):
        step = count if window is None else max(window, PIECE)
        pieces += [(chunk, at, min(step, count - at)) for at in range(0, count, max(1, step))]
    return pieces


def _batches(pieces: list[tuple[int, int, int]], device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
    """Pieces of like length together: their chunks, first rows and rows."""
    batch: list[tuple[int, int, int]] = []
    for piece in sorted(pieces, key=lambda piece: -piece[2]):
        if batch and piece[2] < LEAST_FILLED * batch[0][2]:
            yield torch.tensor(batch, device=device).unbind(1)
            batch = []
        batch.append(piece)
    if batch:
        yield torch.tensor(batch, device=device).unbind(1)
