"""A tile of float8_e4m3fn weights (experts, outs, inner) under one float32 scale a square of 128 x 128.

The tile comes unscaled, exact in bfloat16; its product is scaled instead, so a tile is 128 columns wide and lies within
one column of squares. Gates and ups have squares of their own: see reference/experts.py.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fp8_tile(weights, expert, out_N, k_K, outs, inner, WIDE: tl.constexpr):
    """Rows `out_N` and columns `k_K` of one expert, [N, K]; zero outside."""
    place_NK = expert * outs * inner + out_N.to(tl.int64)[:, None] * inner + k_K[None, :]
    w_NK = tl.load(weights + place_NK, mask=(out_N[:, None] < outs) & (k_K[None, :] < inner), other=0.0)
    return w_NK.to(tl.float32) if WIDE else w_NK.to(tl.bfloat16)


@triton.jit
def fp8_scales(scales, expert, out_N, step, outs, inner, GATED: tl.constexpr):
    """The scale of each row `out_N` in the step-th square along the columns, [N]."""
    squares = tl.cdiv(inner, 128)
    if GATED:
        bands = tl.cdiv(outs // 2, 128)
        place_N = (expert * 2 + out_N % 2) * bands + out_N // 2 // 128
    else:
        place_N = expert * tl.cdiv(outs, 128) + out_N // 128
    return tl.load(scales + place_N * squares + step, mask=out_N < outs, other=0.0)
