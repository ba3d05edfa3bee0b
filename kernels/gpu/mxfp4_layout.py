"""MXFP4 weights in the order in which a matrix instruction's lanes want them, made once while loading.

A granule is 16 rows by 64 columns: 512 bytes of codes, of which lane l of a warp owns the 16 bytes at 16 l, and 32
bytes of scales. Granules of the same rows follow each other, so a warp reads whole runs of 512 bytes and more. Lane l
owns what it needs of the left operand of a bfloat16 product m16 x k16 (rows l / 4 and l / 4 + 8, columns 2 (l % 4), the
next, and both 8 further): four words, in this order those of the first 32 columns in row l / 4 and in row l / 4 + 8,
then of the other 32 columns. A word is eight codes of one row, two in each of four registers.

Bits lie in a word where few instructions make bfloat16 of them (weights_mxfp4.py). In each half of a word, s being the
sign, e the exponent's two bits and m the mantissa's one, and a number saying which register's code it is:

    bit   15 14 13 12 11 10  9  8  7  6  5  4  3  2  1  0
          s0 m3 s3 s1 e3 e3 s2 e0 e0 m0 e1 e1 m1 e2 e2 m2

The fourth code stands in the other half, because a rotation brings it there. Scales: a word for each of 8 rows, whose
bytes are, from the lowest, those of the first 32 columns in row r, of the other 32 in row r, then both in row r + 8;
stored is the exponent of the bfloat16 that codes are multiplied with, the scale's own plus 126, or 0 in the padding.

In a gated matrix (gates in even rows, their ups in odd ones) the first 8 of 16 rows are gates and the others their ups:
both end in one lane's registers. Rows are filled up to 16 and columns to 64, which costs the models we know nothing
(2880 = 45 x 64); any other shape at most 15 rows and 32 columns of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..reference.mxfp4 import BLOCK

ROWS, COLUMNS = 16, 64  # of a granule
LARGEST_SCALE = 128  # 2^(128 - 127): the stored exponent must stay below that of infinity
STRETCH = 512  # rows rearranged at a time: what is needed beside input and result stays at a few MB

_BIAS = 126
_FULL = 0xFFFFFFFF
# Where a code's bits lie, from its sign down, by register; `_CROSSED` codes lie in the other half of the word.
_PLACES = ((15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (13, 11, 10, 14))
_CROSSED = 3


@dataclass(frozen=True, slots=True)
class Swizzled:
    """One matrix (rows, columns) of each of e experts, as a kernel reads it.

    words (e, granules down, granules across, 128) and scales (e, granules down, granules across, 8), both int32.
    """

    words: torch.Tensor
    scales: torch.Tensor
    rows: int
    columns: int
    gated: bool

    def __post_init__(self) -> None:
        """Raises ValueError when the tensors are not those of such a matrix."""
        want = swizzled_shapes(len(self.words), self.rows, self.columns)
        for name, tensor, shape in zip(("words", "scales"), (self.words, self.scales), want, strict=True):
            if tensor.shape != shape or tensor.dtype != torch.int32 or not tensor.is_contiguous():
                raise ValueError(
                    f"{name} of swizzled {self.rows} x {self.columns}: contiguous int32 {shape} wanted, "
                    f"got {tensor.dtype} {tuple(tensor.shape)}"
                )
        if self.gated and self.rows % 2:
            raise ValueError(f"gates and ups come in pairs, got {self.rows} rows")

    @classmethod
    def empty(cls, experts: int, rows: int, columns: int, gated: bool, device: torch.device | str) -> Swizzled:
        """Room for `experts` matrices, to be filled by `put`."""
        words, scales = swizzled_shapes(experts, rows, columns)
        made = [torch.empty(shape, dtype=torch.int32, device=device) for shape in (words, scales)]
        return cls(made[0], made[1], rows, columns, gated)

    def put(self, expert: int, blocks: torch.Tensor, scales: torch.Tensor) -> None:
        """Stores one expert's blocks (rows, columns / 32, 16) and scales (rows, columns / 32); errors of `swizzle`."""
        want = self.rows, self.columns // BLOCK
        if blocks.shape != (*want, BLOCK // 2):
            raise ValueError(f"blocks {(*want, BLOCK // 2)} wanted, got {tuple(blocks.shape)}")
        self.words[expert], self.scales[expert] = swizzle(blocks, scales, self.gated)

    def take(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One expert's blocks and scales, bit for bit as they were put."""
        return unswizzle(self.words[expert], self.scales[expert], self.rows, self.columns, self.gated)


def swizzled_shapes(experts: int, rows: int, columns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of words and scales of such matrices. Raises ValueError for columns that are no multiple of 32."""
    if columns % BLOCK:
        raise ValueError(f"MXFP4 comes in blocks of {BLOCK} columns, got {columns}")
    granules = experts, -(-rows // ROWS), -(-columns // COLUMNS)
    return (*granules, 128), (*granules, 8)


def swizzle(blocks: torch.Tensor, scales: torch.Tensor, gated: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """One matrix's blocks (N, G, 16) and scales (N, G), uint8 -> words (r, c, 128) and scales (r, c, 8), int32.

    Any device; `STRETCH` rows at a time. Raises ValueError for shapes or dtypes that are not MXFP4's, for an odd number
    of gated rows, and for a scale above `LARGEST_SCALE`, that is weights of 12 and more. Asks the device for the
    largest scale: while loading, not while serving.
    """
    if blocks.dtype != torch.uint8 or scales.dtype != torch.uint8:
        raise ValueError(f"MXFP4 blocks and scales are uint8, got {blocks.dtype} and {scales.dtype}")
    if blocks.dim() != 3 or blocks.shape[2] != BLOCK // 2 or blocks.shape[:2] != scales.shape:
        raise ValueError(f"MXFP4 wants blocks (N, G, 16) and scales (N, G), got {blocks.shape} and {scales.shape}")
    rows, groups = scales.shape
    if gated and rows % 2:
        raise ValueError(f"gates and ups come in pairs, got {rows} rows")
    largest = int(scales.max()) if scales.numel() else 0
    if largest > LARGEST_SCALE:
        raise ValueError(f"MXFP4 scale {largest}: at most {LARGEST_SCALE} is supported on a GPU, that is weights to 12")
    shapes = swizzled_shapes(1, rows, groups * BLOCK)
    words, exponents = (torch.empty(shape[1:], dtype=torch.int32, device=blocks.device) for shape in shapes)
    for first in range(0, rows, STRETCH):
        part, here = slice(first, first + STRETCH), slice(first // ROWS, (first + STRETCH) // ROWS)
        words[here] = _words(blocks[part], gated)
        exponents[here] = _exponents(scales[part], gated)
    return words, exponents


def unswizzle(
    words: torch.Tensor, exponents: torch.Tensor, rows: int, columns: int, gated: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `swizzle` was given: blocks (rows, columns / 32, 16) and scales (rows, columns / 32)."""
    blocks = torch.empty((rows, columns // BLOCK, BLOCK // 2), dtype=torch.uint8, device=words.device)
    scales = torch.empty((rows, columns // BLOCK), dtype=torch.uint8, device=words.device)
    for first in range(0, rows, STRETCH):
        here, end = slice(first // ROWS, (first + STRETCH) // ROWS), min(first + STRETCH, rows)
        blocks[first:end] = _blocks(words[here], gated)[: end - first, : columns // BLOCK]
        part = exponents[here].view(torch.uint8).unflatten(-1, (8, 2, 2)).permute(0, 3, 2, 1, 4)
        scales[first:end] = _rows_back(part.flatten(0, 2).flatten(1), gated)[: end - first, : columns // BLOCK] - _BIAS
    return blocks, scales


def _words(blocks: torch.Tensor, gated: bool) -> torch.Tensor:
    codes_NK = torch.stack((blocks & 15, blocks >> 4), -1).flatten(1)
    codes_NK = _rows(_fill_up(codes_NK, COLUMNS), gated)
    # rows: granule, half, row of 8; columns: granule, half, register (its halves first), lane of the row, next column
    codes = codes_NK.unflatten(1, (-1, 2, 2, 2, 4, 2)).unflatten(0, (-1, 2, 8))
    codes = codes.permute(0, 3, 2, 7, 4, 1, 5, 6, 8).flatten(6, 7)  # …, row, lane, a word's two bits, register, next
    words = torch.zeros(codes.shape[:6], dtype=torch.int32, device=blocks.device)
    for register in range(4):
        for half in range(2):
            table = torch.tensor(_table(register, half), dtype=torch.int32, device=blocks.device)
            words |= table[codes[..., register, half].int()]
    return words.flatten(2)


def _blocks(words: torch.Tensor, gated: bool) -> torch.Tensor:
    words = words.unflatten(-1, (8, 4, 2, 2))
    codes = torch.empty((*words.shape, 4, 2), dtype=torch.uint8, device=words.device)
    for register in range(4):
        for half in range(2):
            bits = [((words >> place) & 1) << bit for place, bit in _bits(register, half)]
            codes[..., register, half] = bits[0] | bits[1] | bits[2] | bits[3]
    codes = codes.unflatten(6, (2, 2)).permute(0, 5, 2, 1, 4, 6, 7, 3, 8)
    codes_NK = _rows_back(codes.flatten(0, 2).flatten(1), gated).unflatten(1, (-1, BLOCK // 2, 2))
    return codes_NK[..., 0] | codes_NK[..., 1] << 4


def _exponents(scales: torch.Tensor, gated: bool) -> torch.Tensor:
    filled = _rows(_fill_up(scales + _BIAS, COLUMNS // BLOCK), gated)
    filled = filled.unflatten(1, (-1, 2)).unflatten(0, (-1, 2, 8)).permute(0, 3, 2, 1, 4)
    return filled.flatten(2).contiguous().view(torch.int32)


def _bits(register: int, half: int) -> list[tuple[int, int]]:
    """(Place in the word, bit of the code), from the sign down."""
    offset = 16 * (half ^ (register == _CROSSED))
    return [(place + offset, 3 - i) for i, place in enumerate(_PLACES[register])]


def _table(register: int, half: int) -> list[int]:
    """The word's bits that each code sets, as signed numbers."""
    words = [sum((code >> bit & 1) << place for place, bit in _bits(register, half)) for code in range(16)]
    return [word - (_FULL + 1) if word >> 31 else word for word in words]


def _fill_up(values: torch.Tensor, columns: int) -> torch.Tensor:
    """Zeros behind the last row and column, to multiples of 16 and `columns`."""
    return torch.nn.functional.pad(values, (0, -values.shape[1] % columns, 0, -values.shape[0] % ROWS))


def _rows(values: torch.Tensor, gated: bool) -> torch.Tensor:
    """Of each 16 gated rows, the even ones before the odd ones."""
    return values.unflatten(0, (-1, 8, 2)).transpose(1, 2).flatten(0, 2) if gated else values


def _rows_back(values: torch.Tensor, gated: bool) -> torch.Tensor:
    return values.unflatten(0, (-1, 2, 8)).transpose(1, 2).flatten(0, 2) if gated else values
