"""MXFP4 weights in the order in which a matrix instruction's lanes want them, made once while loading.

Granules of 16 rows by 64 columns are 512 bytes: lane l of a warp finds its 16 bytes at 16 l, four words, one for each
half of 8 rows and of 32 columns. A word is eight codes of row l / 4 (+ 8), columns 2 (l % 4) and the next one, and the
same 8, 16 and 24 further: what the lane holds of the left operand of a bfloat16 product m16 x k16. Bits lie where few
instructions make bfloat16 of them, see weights_mxfp4.py. Scales: 32 bytes a granule, four for each of 8 rows, stored as
the exponent bits of the bfloat16 that the codes are multiplied with.

Columns are filled up to whole granules of 64 and rows to 16: nothing for the models we know (2880 = 45 x 64).

Legend: N rows, K columns, G blocks of 32 columns; r row granules, c column granules.
"""

from __future__ import annotations

import torch

from ..reference.mxfp4 import BLOCK

ROWS, COLUMNS = 16, 64  # of a granule
LARGEST_SCALE = 128  # 2^(128 - 127): the stored exponent, the scale's plus 126, must stay finite
_BIAS = 126
# Where a code's bits lie in a word, from its sign down, by register (two columns 8 apart) and half (the next column).
_PLACES = tuple(
    tuple(place + 16 * half for place in places)
    for places in ((15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 13, 11, 10))
    for half in (0, 1)
)


def swizzled_shape(rows: int, columns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of one matrix of `rows` x `columns` after `swizzle`: words int32, scales uint8."""
    granules = -(-rows // ROWS), -(-columns // COLUMNS)
    return (*granules, 32, 4), (*granules, 32)


def swizzle(blocks: torch.Tensor, scales: torch.Tensor, gated: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """One matrix's blocks (N, G, 16) and scales (N, G), uint8 -> words (r, c, 32, 4) int32, scales (r, c, 32) uint8.

    `gated`: of each 16 rows the even ones, gates, come first, then the odd ones, their ups. Raises ValueError for a
    scale above `LARGEST_SCALE`: weights of 12 and more.
    """
    rows, groups, _ = blocks.shape
    if int(scales.max() if scales.numel() else 0) > LARGEST_SCALE:
        raise ValueError(f"MXFP4 scales above {LARGEST_SCALE} (weights beyond 12) are not supported on a GPU")
    (r, c, _, _), _ = swizzled_shape(rows, groups * BLOCK)
    codes_NK = torch.stack((blocks & 15, blocks >> 4), -1).view(rows, groups * BLOCK)
    codes = _fill_up(codes_NK, r * ROWS, c * COLUMNS)
    # rows: granule, half, row of 8; columns: granule, half of 32, register's bits (16, 8), lane's 2 bits, next column
    codes = _rows(codes, gated).view(r, 2, 8, c, 2, 2, 2, 4, 2)
    codes = codes.permute(0, 3, 2, 7, 1, 4, 5, 6, 8).reshape(r, c, 32, 4, 8).to(torch.int64)
    words = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=blocks.device)
    for i, places in enumerate(_PLACES):
        for bit, place in zip((3, 2, 1, 0), places, strict=True):
            words |= ((codes[..., i] >> bit) & 1) << place
    exponents = _fill_up(scales + _BIAS, r * ROWS, c * 2)  # the padding's 0 stands for a factor of 0
    exponents = _rows(exponents, gated).view(r, 2, 8, c, 2).permute(0, 3, 2, 1, 4)
    return _as_int32(words), exponents.reshape(r, c, 32)


def unswizzle(
    words: torch.Tensor, exponents: torch.Tensor, rows: int, columns: int, gated: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `swizzle` was given: blocks (rows, columns / 32, 16) and scales (rows, columns / 32)."""
    r, c = words.shape[:2]
    wide = words.to(torch.int64)
    codes = torch.zeros((*words.shape, 8), dtype=torch.uint8, device=words.device)
    for i, places in enumerate(_PLACES):
        for bit, place in zip((3, 2, 1, 0), places, strict=True):
            codes[..., i] |= (((wide >> place) & 1) << bit).to(torch.uint8)
    codes = codes.view(r, c, 8, 4, 2, 2, 2, 2, 2).permute(0, 4, 2, 1, 5, 6, 7, 3, 8).reshape(r * ROWS, c * COLUMNS)
    codes = _rows_back(codes, gated)[:rows, :columns].reshape(rows, columns // BLOCK, BLOCK // 2, 2)
    scales = exponents.view(r, c, 8, 2, 2).permute(0, 3, 2, 1, 4).reshape(r * ROWS, c * 2)
    scales = _rows_back(scales, gated)[:rows, : columns // BLOCK]
    return codes[..., 0] | codes[..., 1] << 4, scales - _BIAS


def _fill_up(values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    full = values.new_zeros(rows, columns)
    full[: values.shape[0], : values.shape[1]] = values
    return full


def _rows(values: torch.Tensor, gated: bool) -> torch.Tensor:
    """Of each 16 rows, even before odd."""
    if not gated:
        return values
    return values.view(-1, 8, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)


def _rows_back(values: torch.Tensor, gated: bool) -> torch.Tensor:
    if not gated:
        return values
    return values.view(-1, 2, 8, values.shape[1]).transpose(1, 2).reshape(values.shape)


def _as_int32(words: torch.Tensor) -> torch.Tensor:
    """The low 32 bits, bit 31 as the sign."""
    return (words - ((words >> 31) << 32)).to(torch.int32)
