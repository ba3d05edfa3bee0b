"""Each token's rows from its experts, weighted and summed in the order of k. Twin: ../reference/permute.py.

A program has a stretch of one token's columns: every row is read once, in pieces of 16 bytes a thread, and every sum is
written once. Slots whose row is not there are not read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS = 1024  # of a program


def weighted_sum(
    rows_RD: torch.Tensor,
    positions_TK: torch.Tensor | None,
    weights_TK: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """y[t] = sum over k of weights[t, k] * rows[positions[t, k]], summed in float32, as the twin."""
    rows, width = rows_RD.shape
    k = (weights_TK if positions_TK is None else positions_TK).shape[1]  # type: ignore[union-attr]
    tokens = rows // max(1, k) if positions_TK is None else len(positions_TK)
    y_TD = torch.empty((tokens, width), dtype=dtype, device=rows_RD.device)
    if not tokens or not width:
        return y_TD
    columns = min(COLUMNS, triton.next_power_of_2(width))
    _weighted_sum[(tokens, triton.cdiv(width, columns))](
        rows_RD.contiguous(),
        None if positions_TK is None else positions_TK.contiguous(),
        None if weights_TK is None else weights_TK.float().contiguous(),
        y_TD,
        rows,
        width,
        K=k,
        COLUMNS=columns,
        num_warps=4 if columns >= 1024 else 1,
    )
    return y_TD


@triton.jit(do_not_specialize=["rows"])
def _weighted_sum(rows_of, positions, weights, y, rows, width, K: tl.constexpr, COLUMNS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column_D = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside_D = column_D < width
    total_D = tl.zeros((COLUMNS,), dtype=tl.float32)
    for k in tl.static_range(K):
        pair = token * K + k
        row = pair
        if positions is not None:
            row = tl.load(positions + pair)
        there_D = column_D < tl.where(row < rows, width, 0)
        value_D = tl.load(rows_of + row * width + column_D, mask=there_D, other=0.0).to(tl.float32)
        if weights is not None:
            # An absent slot adds nothing, whatever its weight: 0 times infinity would be NaN.
            value_D = tl.where(there_D, value_D * tl.load(weights + pair), 0.0)
        total_D += value_D
    tl.store(y + token * width + column_D, total_D.to(y.dtype.element_ty), mask=inside_D)
