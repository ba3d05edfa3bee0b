"""A tile of plain weights (experts, outs, inner), as they lie in memory."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dense_tile(weights, expert, out_N, k_K, outs, inner, EVEN: tl.constexpr, WIDE: tl.constexpr):
    """Rows `out_N` and columns `k_K` of one expert, [N, K]; zero outside."""
    place_NK = expert * outs * inner + out_N.to(tl.int64)[:, None] * inner + k_K[None, :]
    mask_NK = out_N[:, None] < outs
    if not EVEN:
        mask_NK = mask_NK & (k_K[None, :] < inner)
    w_NK = tl.load(weights + place_NK, mask=mask_NK, other=0.0)
    if WIDE:
        w_NK = w_NK.to(tl.float32)
    return w_NK
