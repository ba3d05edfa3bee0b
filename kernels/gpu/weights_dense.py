"""A tile of plain weights (experts, outs, inner), as they lie in memory."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dense_tile(weights, expert, out_N, k_K, outs, inner, WIDE: tl.constexpr):
    """Rows `out_N` and columns `k_K` of one expert, [N, K]; zero outside."""
    place_NK = expert * outs * inner + out_N.to(tl.int64)[:, None] * inner + k_K[None, :]
    w_NK = tl.load(weights + place_NK, mask=(out_N[:, None] < outs) & (k_K[None, :] < inner), other=0.0)
    if WIDE:
        w_NK = w_NK.to(tl.float32)
    return w_NK
