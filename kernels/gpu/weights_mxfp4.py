"""A tile of MXFP4 weights, expanded in the registers in which the matrix instruction takes its left operand.

mxfp4_layout.py says how the bits lie in memory, and why. Each lane of a warp has 16 bytes of a granule of 16 rows by 64
columns: four words of eight codes. A word becomes four registers of two bfloat16 in eight instructions: a code's sign
goes to bit 15 and its other three bits to bits 8 to 6, which read as bfloat16 are the value times 2^-126. One
multiplication by the block's scale times 2^126 makes it right, subnormals included. Nothing crosses shared memory after
the copy: the joins and the permutation only give names to registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

_HEAD = """
{
.reg .b32 a, b, c, d, s, z;
.reg .b16 low, high;
and.b32 a, $8, 0x81C081C0;
shl.b32 b, $8, 3;
and.b32 b, b, 0x81C081C0;
shf.l.wrap.b32 d, $8, $8, 6;
and.b32 c, d, 0x81C081C0;
and.b32 d, d, 0x001B001B;
mul.lo.u32 d, d, 0x1084;
and.b32 d, d, 0x81C081C0;
mov.b32 {low, high}, $9;
"""
# Multiplied by way of an addition of -0, which changes nothing: a product alone is there from sm_90 on.
_TAIL = """
mov.b32 z, 0x80008000;
fma.rn.bf16x2 a, a, s, z;
fma.rn.bf16x2 b, b, s, z;
fma.rn.bf16x2 c, c, s, z;
fma.rn.bf16x2 d, d, s, z;
mov.b32 {$0, $1}, a;
mov.b32 {$2, $3}, b;
mov.b32 {$4, $5}, c;
mov.b32 {$6, $7}, d;
}
"""
# The scale is the low or the high half of its register: the multiplication takes either half twice at no cost.
_EXPAND_LOW = tl.constexpr(_HEAD + "mov.b32 s, {low, low};" + _TAIL)
_EXPAND_HIGH = tl.constexpr(_HEAD + "mov.b32 s, {high, high};" + _TAIL)
_EIGHT = tl.constexpr((tl.bfloat16,) * 8)


@triton.jit
def mxfp4_tile(
    blocks, scales, expert, n, step, outs, inner, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WIDE: tl.constexpr
):
    """Tile n of the rows and `step` of the columns of one expert, [BLOCK_N, BLOCK_K].

    `blocks` int32 (experts, granules down, granules across, 128), `scales` int32 (experts, granules down, granules
    across, 8), as `swizzle` made them. Columns behind the last granule are zero; rows behind it repeat its rows.
    """
    DOWN: tl.constexpr = BLOCK_N // 16
    ACROSS: tl.constexpr = BLOCK_K // 64
    down = tl.cdiv(outs, 16)
    across = tl.cdiv(inner, 64)
    first = expert * down * across
    i = tl.arange(0, ACROSS * DOWN * 32)  # a lane's 16 bytes: granule across, granule down, lane
    column = step * ACROSS + i // (32 * DOWN)
    place = (tl.minimum(n * DOWN + i // 32 % DOWN, down - 1) * across + column) * 128 + i % 32 * 4
    word = blocks + first * 128 + (place[:, None] + tl.arange(0, 4)[None, :])
    j = tl.arange(0, ACROSS * DOWN * 8)  # four scales: granule across, granule down, row of 8
    scale_column = step * ACROSS + j // (8 * DOWN)
    place = (tl.minimum(n * DOWN + j // 8 % DOWN, down - 1) * across + scale_column) * 8 + j % 8
    if ACROSS == 1:  # a step is never outside
        words = tl.load(word)
        scale = tl.load(scales + first * 8 + place)
    else:
        words = tl.load(word, mask=(column < across)[:, None], other=0)
        scale = tl.load(scales + first * 8 + place, mask=scale_column < across, other=0)

    # Granule and row of 8, lane of the row, half of 32 columns, half of 8 rows: the four words one by one.
    words = words.reshape(ACROSS * DOWN * 8, 4, 2, 2)
    left_words, right_words = tl.split(words.permute(0, 1, 3, 2))
    top_left, bottom_left = tl.split(left_words)
    top_right, bottom_right = tl.split(right_words)
    scale = tl.broadcast_to(scale[:, None], (ACROSS * DOWN * 8, 4))
    left = (scale & 0x00FF00FF) << 7
    right = (scale >> 1) & 0x7F807F80
    values = tl.join(
        tl.join(_eight(top_left, left, 0, WIDE), _eight(bottom_left, left, 1, WIDE)),
        tl.join(_eight(top_right, right, 0, WIDE), _eight(bottom_right, right, 1, WIDE)),
    )  # granule and row of 8, lane, register (4), half of the register, half of 8 rows, half of 32 columns
    values = values.reshape(ACROSS, DOWN, 8, 4, 2, 2, 2, 2, 2)
    values = values.permute(1, 7, 2, 0, 8, 4, 5, 3, 6).reshape(BLOCK_N, BLOCK_K)
    if not WIDE:
        # Does nothing, but hides the joins from a rule of the compiler (it halves the width that it believes the codes
        # came with) by which mma.sync would want another order of columns than wgmma does.
        values = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [values], dtype=tl.bfloat16, is_pure=False, pack=2
        )
    return values


@triton.jit
def _eight(word, pair, HALF: tl.constexpr, WIDE: tl.constexpr):
    """Words [R, 4] to their values [R, 4, 4, 2], in the order of registers and of their halves."""
    if WIDE:
        a0, a1, b0, b1, c0, c1, d0, d1 = _portably(word, (pair >> (16 * HALF)) & 0xFFFF)
    else:
        a0, a1, b0, b1, c0, c1, d0, d1 = tl.inline_asm_elementwise(
            _EXPAND_HIGH if HALF else _EXPAND_LOW,
            "=h,=h,=h,=h,=h,=h,=h,=h,r,r",
            [word, pair],
            dtype=_EIGHT,
            is_pure=True,
            pack=1,
        )
    values = tl.join(tl.join(tl.join(a0, c0), tl.join(b0, d0)), tl.join(tl.join(a1, c1), tl.join(b1, d1)))
    return values.reshape(word.shape[0], 4, 4, 2)


@triton.jit
def _portably(word, scale_bits):
    """The same eight values in float32, code by code."""
    other = ((word >> 16) & 0xFFFF) | (word << 16)  # the fourth code's bits lie in the other half
    factor = (scale_bits << 16).to(tl.float32, bitcast=True)
    return (
        _value(word, 15, 8, 7, 6, factor),
        _value(word, 31, 24, 23, 22, factor),
        _value(word, 12, 5, 4, 3, factor),
        _value(word, 28, 21, 20, 19, factor),
        _value(word, 9, 2, 1, 0, factor),
        _value(word, 25, 18, 17, 16, factor),
        _value(other, 13, 11, 10, 14, factor),
        _value(other, 29, 27, 26, 30, factor),
    )


@triton.jit
def _value(word, sign: tl.constexpr, high: tl.constexpr, low: tl.constexpr, half: tl.constexpr, factor):
    """The code whose sign, exponent bits and mantissa bit lie at these places, times 2^-126 times `factor`."""
    bits = (
        ((word >> sign) & 1) << 31 | ((word >> high) & 1) << 24 | ((word >> low) & 1) << 23 | ((word >> half) & 1) << 22
    )
    return bits.to(tl.float32, bitcast=True) * factor
