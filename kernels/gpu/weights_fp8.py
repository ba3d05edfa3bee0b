"""A tile of float8_e4m3fn weights (experts, outs, inner) under one float32 scale a square of 128 x 128.

The tile comes unscaled, exact in bfloat16; its product is scaled instead, so a tile has at most 128 columns, all of one
square. Gates and ups have squares of their own: see reference/experts.py.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fp8_tile(weights, expert, out_N, k_K, outs, inner, EVEN: tl.constexpr, WIDE: tl.constexpr):
    """Rows `out_N` and columns `k_K` of one expert, [N, K]; zero outside."""
    place_NK = expert * outs * inner + out_N.to(tl.int64)[:, None] * inner + k_K[None, :]
    mask_NK = out_N[:, None] < outs
    if not EVEN:
        mask_NK = mask_NK & (k_K[None, :] < inner)
    w_NK = tl.load(weights + place_NK, mask=mask_NK, other=0.0)
    # By way of float16 and float32: the direct conversion takes the slowest unit of a multiprocessor, once a weight.
    wide_NK = w_NK.to(tl.float16).to(tl.float32)
    return wide_NK if WIDE else wide_NK.to(tl.bfloat16)


@triton.jit
def fp8_scales(scales, expert, out_N, square, outs, inner, GATED: tl.constexpr):
    """The scale of each row `out_N` in the square-th square along the columns, [N]."""
    squares = tl.cdiv(inner, 128)
    if GATED:
        bands = tl.cdiv(outs // 2, 128)
        place_N = (expert * 2 + out_N % 2) * bands + out_N // 2 // 128
    else:
        place_N = expert * tl.cdiv(outs, 128) + out_N // 128
    return tl.load(scales + place_N * squares + square, mask=out_N < outs, other=0.0)
