"""Paged attention with sinks and sliding windows in plain torch: the twin that the fast kernels are held against.

Legend: B decoding requests, N new tokens of C chunks, M keys before a chunk, P pages a row, s page size,
H query heads, h key-value heads, d head width. Caches are (pages, s, h, d). A window of W lets a token see itself and
the W - 1 tokens before it; None sees all. `sinks_H` is one more logit a head in the softmax, whose column is dropped
(gpt-oss model card).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_QUERY_BLOCK = 256  # bounds the score matrix of a long chunk


def decode_attention(
    q_BHd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    pages_BP: torch.Tensor,
    first_B: torch.Tensor,
    positions_B: torch.Tensor,
    sinks_H: torch.Tensor | None,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """One new token a request, its own key already in the cache. Returns (B, H, d).

    `pages_BP` are the pages to read; column c of row b holds positions first_B[b] + c * s …; what lies after
    `positions_B` or outside the window is masked, so padding columns may name any page. A row at a negative position
    is padding: its output is 0.
    """
    batch, heads, width = q_BHd.shape
    page_size, kv_heads = k_cache.shape[1], k_cache.shape[2]
    wide = torch.promote_types(q_BHd.dtype, torch.float32)
    keys_BLhd = k_cache[pages_BP].reshape(batch, -1, kv_heads, width).to(wide)
    values_BLhd = v_cache[pages_BP].reshape(batch, -1, kv_heads, width).to(wide)
    at_BL = first_B[:, None] + torch.arange(pages_BP.shape[1] * page_size, device=q_BHd.device)
    seen_BL = at_BL <= positions_B[:, None]
    if window is not None:
        seen_BL &= at_BL > positions_B[:, None] - window
    q_Bhgd = q_BHd.reshape(batch, kv_heads, heads // kv_heads, width).to(wide)
    scores_BhgL = torch.einsum("bhgd,blhd->bhgl", q_Bhgd, keys_BLhd) * scale
    scores_BhgL.masked_fill_(~seen_BL[:, None, None, :], float("-inf"))
    weights_BhgL = _softmax_with_sink(scores_BhgL, sinks_H, kv_heads)
    values_BLhd = values_BLhd.masked_fill(~seen_BL[:, :, None, None], 0)  # never-written pages may hold NaN
    out_BHd = torch.einsum("bhgl,blhd->bhgd", weights_BhgL, values_BLhd).reshape(q_BHd.shape)
    return out_BHd.masked_fill(positions_B[:, None, None] < 0, 0).to(q_BHd.dtype)


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
    """Rows offsets_C1[c] … offsets_C1[c + 1] are consecutive tokens of one request, from position starts_C[c] on.

    Each sees, causally, its chunk's own keys, which are not in the cache yet, and the positions before the chunk,
    which are: column j of row c of `pages_CP` holds positions first_C[c] + j * s …. With a window the pages need not
    reach further back than the W - 1 positions before the chunk. Returns (N, H, d).
    """
    counts = offsets_C1.diff().tolist()
    ends = chunks(offsets_C1, starts_C, pages_CP, first_C, k_cache.shape[1], window)
    outs = [
        _chunk(q_nHd, k_nhd, v_nhd, k_cache, v_cache, prior, sinks_H, window, scale)
        for q_nHd, k_nhd, v_nhd, (_, _, prior) in zip(
            *(x.split(counts) for x in (q_NHd, k_Nhd, v_Nhd)), ends, strict=True
        )
    ]
    return torch.cat(outs) if outs else torch.empty_like(q_NHd)


def chunks(
    offsets_C1: torch.Tensor,
    starts_C: torch.Tensor,
    pages_CP: torch.Tensor,
    first_C: torch.Tensor,
    page_size: int,
    window: int | None,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Each chunk's rows [low, high), and the flat slots (page * s + offset) of what it sees before it, oldest first."""
    offsets = offsets_C1.tolist()
    within_s = torch.arange(page_size, device=pages_CP.device)
    for c, (start, first) in enumerate(zip(starts_C.tolist(), first_C.tolist(), strict=True)):
        oldest = 0 if window is None else max(0, start - (window - 1))
        columns = slice((oldest - first) // page_size, -((first - start) // page_size))
        slots = (pages_CP[c, columns, None].long() * page_size + within_s).flatten()
        skipped = first + columns.start * page_size
        yield offsets[c], offsets[c + 1], slots[oldest - skipped : start - skipped]


def _chunk(
    q_NHd: torch.Tensor,
    k_Nhd: torch.Tensor,
    v_Nhd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    prior_M: torch.Tensor,
    sinks_H: torch.Tensor | None,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    count, heads, width = q_NHd.shape
    kv_heads, prior = k_Nhd.shape[1], prior_M.shape[0]
    wide = torch.promote_types(q_NHd.dtype, torch.float32)
    keys_Lhd = torch.cat((k_cache.view(-1, kv_heads, width)[prior_M].to(wide), k_Nhd.to(wide)))
    values_Lhd = torch.cat((v_cache.view(-1, kv_heads, width)[prior_M].to(wide), v_Nhd.to(wide)))
    key_at_L = torch.arange(prior + count, device=q_NHd.device)
    outs = [q_NHd.new_empty(0, heads, width)]
    for low in range(0, count, _QUERY_BLOCK):
        q_nhgd = q_NHd[low : low + _QUERY_BLOCK].reshape(-1, kv_heads, heads // kv_heads, width).to(wide)
        at_n = prior + low + torch.arange(q_nhgd.shape[0], device=q_NHd.device)
        seen_nL = key_at_L <= at_n[:, None]
        if window is not None:
            seen_nL &= key_at_L > at_n[:, None] - window
        scores_nhgL = torch.einsum("nhgd,lhd->nhgl", q_nhgd, keys_Lhd) * scale
        scores_nhgL.masked_fill_(~seen_nL[:, None, None, :], float("-inf"))
        weights_nhgL = _softmax_with_sink(scores_nhgL, sinks_H, kv_heads)
        out_nhgd = torch.einsum("nhgl,lhd->nhgd", weights_nhgL, values_Lhd)
        outs.append(out_nhgd.reshape(-1, heads, width).to(q_NHd.dtype))
    return torch.cat(outs)


def _softmax_with_sink(scores: torch.Tensor, sinks_H: torch.Tensor | None, kv_heads: int) -> torch.Tensor:
    """(X, h, g, L) scores to weights; with a sink they add up to less than one."""
    if sinks_H is None:
        return scores.softmax(-1)
    sink = sinks_H.to(scores.dtype).view(1, kv_heads, -1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sink), -1).softmax(-1)[..., :-1]
