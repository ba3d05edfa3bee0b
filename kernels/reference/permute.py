"""Rows into groups and back: what a dispatcher does to tokens on its own rank. Everything stays on the device.

N pairs (a token and one of its experts, flat), R rows, g groups, T tokens, K slots a token, D width.
"""

from __future__ import annotations

import torch


def group(keys_N: torch.Tensor, groups: int, rows: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Order pairs by their key 0 … groups - 1, equal keys in their old order. The key `groups` means: not here.

    `rows` is how many pairs are here, when fewer than all: the caller knows it, so that nobody has to ask the device.
    Returns order_R int64, the pairs that are here, and counts_g int64.
    """
    order_N = torch.argsort(keys_N, stable=True)
    counts = torch.zeros(groups + 1, dtype=torch.int64, device=keys_N.device)
    counts.scatter_add_(0, keys_N, torch.ones_like(keys_N))
    return order_N if rows is None else order_N[:rows], counts[:groups]


def ungroup(order_R: torch.Tensor, pairs: int) -> torch.Tensor:
    """Where each of `pairs` pairs stands in the grouped rows, R for one that is not there: positions_N int64."""
    positions_N = torch.full((pairs,), len(order_R), dtype=torch.int64, device=order_R.device)
    return positions_N.scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))


def gather(x_TD: torch.Tensor, index_R: torch.Tensor) -> torch.Tensor:
    """rows_RD = x_TD[index_R], any dtype."""
    return x_TD.index_select(0, index_R)


def weighted_sum(
    rows_RD: torch.Tensor,
    positions_TK: torch.Tensor | None,
    weights_TK: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """y[t] = sum over k of weights[t, k] * rows[positions[t, k]], in the order of k; the position R adds nothing.

    Without positions slot k of token t is row t * K + k. Without weights every slot counts once, and there must be
    positions. Returns y_TD in `dtype`, summed in float32 (float64 for float64 rows), which also is the default.
    """
    k = (weights_TK if positions_TK is None else positions_TK).shape[1]  # type: ignore[union-attr]
    total = torch.promote_types(rows_RD.dtype, torch.float32)
    tokens = len(rows_RD) // max(1, k) if positions_TK is None else len(positions_TK)
    y_TD = torch.zeros((tokens, rows_RD.shape[1]), dtype=total, device=rows_RD.device)
    if len(rows_RD) == 0:
        return y_TD.to(dtype or total)
    slots = rows_RD.unflatten(0, (-1, k)).unbind(1) if positions_TK is None else ()
    for slot in range(k):
        if positions_TK is None:
            slot_TD = slots[slot].to(total)
        else:
            slot_TD = _rows_or_zero(rows_RD, positions_TK, slot).to(total)
        if weights_TK is None:
            y_TD.add_(slot_TD)
        else:
            y_TD.addcmul_(slot_TD, weights_TK[:, slot, None].to(total))
    return y_TD.to(dtype or total)


def _rows_or_zero(rows_RD: torch.Tensor, positions_TK: torch.Tensor, slot: int) -> torch.Tensor:
    """Filled with zero, not multiplied by it: an absent slot reads a stranger's row, which may hold infinity."""
    at_T = positions_TK[:, slot]
    if len(rows_RD) >= positions_TK.numel():
        return rows_RD.index_select(0, at_T)
    slot_TD = rows_RD.index_select(0, at_T.clamp(max=len(rows_RD) - 1))
    return slot_TD.masked_fill_((at_T == len(rows_RD)).unsqueeze(-1), 0)
