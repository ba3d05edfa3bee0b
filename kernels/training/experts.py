"""Gated experts with gradients: one product after the other, over each expert's rows, filled up to some multiple.

Twin and legend: ../reference/experts.py; n rows, filled ones included. Everything between the products is done for all
experts at once; and the backward pass is written out: it keeps inputs, gates and ups, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..glu import Glu
from ..reference.permute import group


def _step(dtype: torch.dtype) -> int:
    """The room for an expert is a multiple of so many rows.

    Matrix kernels in bfloat16 are compiled for a shape, and few shapes occur then; those in float32 take any.
    """
    return 64 if dtype == torch.bfloat16 else 16


def moe_experts(
    x_MD: torch.Tensor,
    keys_MK: torch.Tensor,
    gate_up_egD: torch.Tensor,
    gate_up_bias_eg: torch.Tensor,
    down_eDf: torch.Tensor,
    down_bias_eD: torch.Tensor,
    glu: Glu,
) -> torch.Tensor:
    """Token m through expert keys[m, k], in x's dtype: (M, K, D). Every key is an expert that is here."""
    weights = (gate_up_egD, gate_up_bias_eg, down_eDf, down_bias_eD)
    return _Experts.apply(x_MD, keys_MK, *(weight.to(x_MD.dtype) for weight in weights), glu)


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MD: torch.Tensor,
        keys_MK: torch.Tensor,
        gate_up_egD: torch.Tensor,
        gate_up_bias_eg: torch.Tensor,
        down_eDf: torch.Tensor,
        down_bias_eD: torch.Tensor,
        glu: Glu,
    ) -> torch.Tensor:
        place_R, token_n, rooms = _places(keys_MK, len(gate_up_egD), _step(x_MD.dtype))
        x_nD = x_MD.index_select(0, token_n)
        gate_up_egD, gate_up_bias_eg = _halved(gate_up_egD), _halved(gate_up_bias_eg)
        gate_up_ng = _products(x_nD, gate_up_egD, gate_up_bias_eg, rooms)
        hidden_nf, *_ = _glu(gate_up_ng, glu)
        y_nD = _products(hidden_nf.to(x_MD.dtype), down_eDf, down_bias_eD, rooms)
        ctx.save_for_backward(x_nD, gate_up_ng, gate_up_egD, down_eDf, place_R)
        ctx.glu, ctx.rooms = glu, rooms
        return y_nD.index_select(0, place_R).view(*keys_MK.shape, x_MD.shape[1])

    @staticmethod
    def backward(ctx: Any, grad_MKD: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x_nD, gate_up_ng, gate_up_egD, down_eDf, place_R = ctx.saved_tensors
        grad_y_nD = torch.zeros_like(x_nD)  # rows that fill up take no part
        grad_y_nD.index_copy_(0, place_R, grad_MKD.flatten(0, 1))
        hidden_nf, slopes_ng = _glu(gate_up_ng, ctx.glu, slopes=True)
        hidden_nf = hidden_nf.to(x_nD.dtype)
        grad_hidden_nf, grad_x_nD = torch.empty_like(hidden_nf), torch.empty_like(x_nD)
        grad_gate_up_egD, grad_down_eDf = torch.zeros_like(gate_up_egD), torch.zeros_like(down_eDf)
        grad_bias_eg, grad_bias_eD = (
            gate_up_egD.new_zeros(gate_up_egD.shape[:2]),
            down_eDf.new_zeros(down_eDf.shape[:2]),
        )
        for e, span in _spans(ctx.rooms):
            torch.mm(grad_y_nD[span], down_eDf[e], out=grad_hidden_nf[span])
            torch.mm(grad_y_nD[span].t(), hidden_nf[span], out=grad_down_eDf[e])
            torch.sum(grad_y_nD[span], 0, out=grad_bias_eD[e])
        grad_ng = slopes_ng.unflatten(-1, (2, -1)).mul_(grad_hidden_nf[:, None]).flatten(1).to(x_nD.dtype)
        for e, span in _spans(ctx.rooms):
            torch.mm(grad_ng[span], gate_up_egD[e], out=grad_x_nD[span])
            torch.mm(grad_ng[span].t(), x_nD[span], out=grad_gate_up_egD[e])
            torch.sum(grad_ng[span], 0, out=grad_bias_eg[e])
        grad_x_MD = grad_x_nD.index_select(0, place_R).view_as(grad_MKD).sum(1)
        return grad_x_MD, None, _paired(grad_gate_up_egD), _paired(grad_bias_eg), grad_down_eDf, grad_bias_eD, None


def _places(keys_MK: torch.Tensor, experts: int, step: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Where each pair's row stands, whose token each row is (token 0's where it fills up), and the experts' rows."""
    keys_R = keys_MK.flatten()
    order_R, counts_e = group(keys_R, experts)
    rooms_e = (counts_e + (step - 1)) // step * step
    ahead_e = (rooms_e - counts_e).cumsum(0) - (rooms_e - counts_e)  # rows that fill up the experts before
    filled_R = torch.arange(len(order_R), device=keys_R.device) + ahead_e[keys_R[order_R]]
    place_R = torch.empty_like(order_R)
    place_R[order_R] = filled_R
    rooms = rooms_e.tolist()
    token_n = torch.zeros(sum(rooms), dtype=torch.int64, device=keys_R.device)
    token_n[filled_R] = order_R // keys_MK.shape[1]
    return place_R, token_n, rooms


def _spans(rooms: list[int]) -> Iterator[tuple[int, slice]]:
    """The rows of each expert that has any."""
    start = 0
    for e, room in enumerate(rooms):
        if room:
            yield e, slice(start, start + room)
        start += room


def _products(x_ni: torch.Tensor, weight_eoi: torch.Tensor, bias_eo: torch.Tensor, rooms: list[int]) -> torch.Tensor:
    y_no = x_ni.new_empty(len(x_ni), weight_eoi.shape[1])
    for e, span in _spans(rooms):
        torch.addmm(bias_eo[e], x_ni[span], weight_eoi[e].t(), out=y_no[span])
    return y_no


def _halved(gate_up: torch.Tensor) -> torch.Tensor:
    """(e, 2f, …) with gates and ups in turn -> all gates, then all ups."""
    return torch.cat((gate_up[:, ::2], gate_up[:, 1::2]), 1)


def _paired(halves: torch.Tensor) -> torch.Tensor:
    """The inverse of `_halved`."""
    return torch.stack(halves.chunk(2, 1), 2).flatten(1, 2)


def _glu(gate_up_ng: torch.Tensor, glu: Glu, slopes: bool = False) -> tuple[torch.Tensor, ...]:
    """Hidden values, and with `slopes` what they change by with gates and ups; in float32 or wider."""
    gate, up = gate_up_ng.to(torch.promote_types(gate_up_ng.dtype, torch.float32)).chunk(2, -1)
    clamped = gate.clamp(max=glu.limit)
    bell = torch.sigmoid(clamped * glu.alpha)
    shifted = up.clamp(-glu.limit, glu.limit).add_(glu.shift)
    swish = clamped * bell
    if not slopes:
        return (swish.mul_(shifted),)
    by_both = torch.empty(gate_up_ng.shape, dtype=gate.dtype, device=gate.device)
    by_gate, by_up = by_both.chunk(2, -1)
    torch.mul(swish, up.abs() <= glu.limit, out=by_up)
    torch.mul(1 - bell, clamped, out=by_gate)
    by_gate.mul_(glu.alpha).add_(1).mul_(bell).mul_(shifted).mul_(gate <= glu.limit)
    return swish.mul_(shifted), by_both
