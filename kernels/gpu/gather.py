"""Rows by index, of any dtype: what leaves stands in the order of its destinations. Twin: ../reference/permute.py.

Rows are moved as the widest whole words that their length allows, at best 16 bytes a thread.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS = 1024  # words of a program


def gather(x_TD: torch.Tensor, index_R: torch.Tensor) -> torch.Tensor:
    """rows_RD = x_TD[index_R]; index int64, each from 0 to T - 1."""
    rows_RD = torch.empty((len(index_R), x_TD.shape[1]), dtype=x_TD.dtype, device=x_TD.device)
    if not rows_RD.numel():
        return rows_RD
    words = _words(x_TD.contiguous())
    width = words.shape[1]
    columns = min(COLUMNS, triton.next_power_of_2(width))
    _gather[(len(index_R), triton.cdiv(width, columns))](
        words, index_R.contiguous(), rows_RD.view(words.dtype), WIDTH=width, COLUMNS=columns, num_warps=4
    )
    return rows_RD


def _words(x_TD: torch.Tensor) -> torch.Tensor:
    """The same bytes as the widest integers that fit each row whole."""
    row_bytes = x_TD.shape[1] * x_TD.element_size()
    for dtype in (torch.int64, torch.int32, torch.int16):
        if row_bytes % dtype.itemsize == 0 and x_TD.data_ptr() % dtype.itemsize == 0:
            return x_TD.view(dtype)
    return x_TD.view(torch.uint8)


@triton.jit
def _gather(x, index, out, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """WIDTH is a constant, so that the compiler sees how far rows are aligned: 16 bytes a thread where they are so."""
    row = tl.program_id(0).to(tl.int64)
    column_D = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    source = tl.load(index + row)
    value_D = tl.load(x + source * WIDTH + column_D, mask=column_D < WIDTH)
    tl.store(out + row * WIDTH + column_D, value_D, mask=column_D < WIDTH)
