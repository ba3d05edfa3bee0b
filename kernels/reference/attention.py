"""Paged attention with sinks and sliding windows in plain torch: the twin that the fast kernels are held against.

Legend: B decoding requests, N new tokens of one chunk, M keys before the chunk, P pages a row, s page size,
H query heads, h key-value heads, d head width. Caches are (pages, s, h, d). A window of W lets a token see itself and
the W - 1 tokens before it; None sees all. `sinks_H` is one more logit a head in the softmax, whose column is dropped
(gpt-oss model card).
"""

from __future__ import annotations

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
    `positions_B` or outside the window is masked, so padding columns may name any page.
    """
    batch, heads, width = q_BHd.shape
    page_size, kv_heads = k_cache.shape[1], k_cache.shape[2]
    keys_BLhd = k_cache[pages_BP].reshape(batch, -1, kv_heads, width)
    values_BLhd = v_cache[pages_BP].reshape(batch, -1, kv_heads, width)
    at_BL = first_B[:, None] + torch.arange(pages_BP.shape[1] * page_size, device=q_BHd.device)
    seen_BL = at_BL <= positions_B[:, None]
    if window is not None:
        seen_BL &= at_BL > positions_B[:, None] - window
    q_Bhgd = q_BHd.view(batch, kv_heads, heads // kv_heads, width)
    scores_BhgL = torch.einsum("bhgd,blhd->bhgl", q_Bhgd.float(), keys_BLhd.float()) * scale
    scores_BhgL.masked_fill_(~seen_BL[:, None, None, :], float("-inf"))
    weights_BhgL = _softmax_with_sink(scores_BhgL, sinks_H, kv_heads)
    values_BLhd = values_BLhd.masked_fill(~seen_BL[:, :, None, None], 0)  # never-written pages may hold NaN
    return torch.einsum("bhgl,blhd->bhgd", weights_BhgL, values_BLhd.float()).reshape(q_BHd.shape).to(q_BHd.dtype)


def chunk_attention(
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
    """N new tokens of one request over M earlier ones and themselves, causally. Returns (N, H, d).

    `prior_M` are flat cache slots (page * s + offset) of the M positions just before the chunk, oldest first; with a
    window M may stop at W - 1.
    """
    count, heads, width = q_NHd.shape
    kv_heads, prior = k_Nhd.shape[1], prior_M.shape[0]
    keys_Lhd = torch.cat((k_cache.view(-1, kv_heads, width)[prior_M], k_Nhd)).float()
    values_Lhd = torch.cat((v_cache.view(-1, kv_heads, width)[prior_M], v_Nhd)).float()
    key_at_L = torch.arange(prior + count, device=q_NHd.device)
    out_NHd = torch.empty_like(q_NHd)
    for low in range(0, count, _QUERY_BLOCK):
        q_nhgd = q_NHd[low : low + _QUERY_BLOCK].view(-1, kv_heads, heads // kv_heads, width).float()
        at_n = prior + low + torch.arange(q_nhgd.shape[0], device=q_NHd.device)
        seen_nL = key_at_L <= at_n[:, None]
        if window is not None:
            seen_nL &= key_at_L > at_n[:, None] - window
        scores_nhgL = torch.einsum("nhgd,lhd->nhgl", q_nhgd, keys_Lhd) * scale
        scores_nhgL.masked_fill_(~seen_nL[:, None, None, :], float("-inf"))
        weights_nhgL = _softmax_with_sink(scores_nhgL, sinks_H, kv_heads)
        out_nhgd = torch.einsum("nhgl,lhd->nhgd", weights_nhgL, values_Lhd)
        out_NHd[low : low + _QUERY_BLOCK] = out_nhgd.reshape(-1, heads, width).to(q_NHd.dtype)
    return out_NHd


def store(
    k_Thd: torch.Tensor,
    v_Thd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rows_W: torch.Tensor,
    slots_W: torch.Tensor,
) -> None:
    """Write rows `rows_W` of the new keys and values to the flat cache slots `slots_W`."""
    kv_heads, width = k_Thd.shape[1:]
    k_cache.view(-1, kv_heads, width)[slots_W] = k_Thd[rows_W].to(k_cache.dtype)
    v_cache.view(-1, kv_heads, width)[slots_W] = v_Thd[rows_W].to(v_cache.dtype)


def _softmax_with_sink(scores: torch.Tensor, sinks_H: torch.Tensor | None, kv_heads: int) -> torch.Tensor:
    """(X, h, g, L) scores to weights; with a sink they add up to less than one."""
    if sinks_H is None:
        return scores.softmax(-1)
    sink = sinks_H.to(scores.dtype).view(1, kv_heads, -1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sink), -1).softmax(-1)[..., :-1]
