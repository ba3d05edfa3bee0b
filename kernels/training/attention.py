"""Attention of many chunks at once, with gradients, through torch's flash kernel. Twin: ../reference/attention.py.

Chunks of like length make one batch, filled up to the longest. The sink is one more key: a dimension more of every
query holds 1, and of that key alone the sink, so that its gradient is that of a key.

B chunks of a batch, N rows of the longest, L keys of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

LEAST_FILLED = 0.6  # of the longest's rows that a chunk in its batch must have
SPARE = 8  # dimensions for the sink: what vector instructions like


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
            torch.cat((cache.flatten(0, 1)[slot_BM], new[at_BN]), 1).float()
            for cache, new in ((k_cache, k_Nhd), (v_cache, v_Nhd))
        )
        query_BN1 = (starts_B[:, None] + row_BN)[..., None]
        key_BL = torch.cat((place_BM, starts_B[:, None] + row_BN), 1)[:, None]
        seen_BNL = (key_BL <= query_BN1) & torch.cat((past_BM, real_BN), 1)[:, None]
        if window is not None:
            seen_BNL &= key_BL > query_BN1 - window
        out_BNHd = _attend(q_NHd[at_BN].float(), keys, values, seen_BNL, sinks_H, scale)
        outs.append(out_BNHd[real_BN])
        rows.append(at_BN[real_BN])
    if not outs:
        return torch.empty_like(q_NHd)
    out_NHd = torch.cat(outs).to(q_NHd.dtype)
    return out_NHd if len(outs) == 1 and len(rows[0]) == 0 else out_NHd[torch.cat(rows).argsort()]


def _attend(
    q_BNHd: torch.Tensor,
    k_BLhd: torch.Tensor,
    v_BLhd: torch.Tensor,
    seen_BNL: torch.Tensor,
    sinks_H: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    heads, width = q_BNHd.shape[2:]
    group = heads // k_BLhd.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q_BNHd, k_BLhd, v_BLhd))
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    seen = seen_BNL[:, None]
    if sinks_H is not None:
        spare = q.new_zeros(*q.shape[:3], SPARE)
        spare[..., 0] = 1
        q = torch.cat((q, spare), -1)
        sink = torch.zeros(heads, 1, width + SPARE, dtype=q.dtype, device=q.device)
        sink = sink.index_put((torch.arange(heads), torch.tensor(0), torch.tensor(width)), sinks_H.float() / scale)
        k = torch.cat((sink.expand(len(k), -1, -1, -1), F.pad(k, (0, SPARE))), 2)
        v = F.pad(v, (0, SPARE, 1, 0))
        seen = F.pad(seen, (1, 0), value=True)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    return out[..., :width].transpose(1, 2)


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
