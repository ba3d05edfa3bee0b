"""Gated experts on rows that stand grouped by expert: gpt-oss's feed-forward, weights dense or packed in MXFP4.

R rows, e experts, D model width, f expert width, g = 2f (gate and up interleaved: gate even, up odd).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .linear import linear
from .mxfp4 import unpack


def swiglu(gate_up_Rg: torch.Tensor, limit: float, alpha: float) -> torch.Tensor:
    """(up + 1) * gate * sigmoid(alpha * gate), gate at most `limit`, up between -limit and limit: hidden_Rf."""
    gate_Rf = gate_up_Rg[..., ::2].clamp(max=limit)
    up_Rf = gate_up_Rg[..., 1::2].clamp(-limit, limit)
    return (up_Rf + 1) * (gate_Rf * torch.sigmoid(alpha * gate_Rf))


def moe_experts(
    rows_RD: torch.Tensor,
    counts_e: torch.Tensor,
    gate_up_egD: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_eDf: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    *,
    limit: float,
    alpha: float,
) -> torch.Tensor:
    """Each expert's rows through its own weights -> new rows_RD in the rows' dtype; counts_e int64 sums to R.

    Weights of another dtype are converted an expert at a time. A bias that is None adds nothing.
    """
    if _grouped_mm_takes(rows_RD, gate_up_egD, down_eDf):
        gate_up_Rg = _grouped(rows_RD, counts_e, gate_up_egD, gate_up_bias_eg)
        return _grouped(swiglu(gate_up_Rg, limit, alpha), counts_e, down_eDf, down_bias_eD)

    def expert(e: int, rows_rD: torch.Tensor) -> torch.Tensor:
        hidden_rf = swiglu(linear(rows_rD, gate_up_egD[e], _at(gate_up_bias_eg, e)), limit, alpha)
        return linear(hidden_rf, down_eDf[e], _at(down_bias_eD, e))

    return _each(rows_RD, counts_e, expert)


def moe_experts_mxfp4(
    rows_RD: torch.Tensor,
    counts_e: torch.Tensor,
    gate_up_blocks: torch.Tensor,
    gate_up_scales: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_blocks: torch.Tensor,
    down_scales: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    *,
    limit: float,
    alpha: float,
) -> torch.Tensor:
    """The same with packed weights: blocks (e, out, in / 32, 16) and scales (e, out, in / 32), uint8.

    Expands one expert at a time into the rows' dtype, those alone that have rows.
    """

    def expert(e: int, rows_rD: torch.Tensor) -> torch.Tensor:
        gate_up_gD = unpack(gate_up_blocks[e], gate_up_scales[e], rows_rD.dtype)
        hidden_rf = swiglu(linear(rows_rD, gate_up_gD, _at(gate_up_bias_eg, e)), limit, alpha)
        down_Df = unpack(down_blocks[e], down_scales[e], rows_rD.dtype)
        return linear(hidden_rf, down_Df, _at(down_bias_eD, e))

    return _each(rows_RD, counts_e, expert)


def _at(bias: torch.Tensor | None, e: int) -> torch.Tensor | None:
    return None if bias is None else bias[e]


def _each(
    rows_RD: torch.Tensor, counts_e: torch.Tensor, expert: Callable[[int, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """One expert after the other. Host synchronisation on a GPU: the counts, to cut the rows."""
    out_RD = torch.empty_like(rows_RD)
    start = 0
    for e, count in enumerate(counts_e.tolist()):
        if count:
            out_RD[start : start + count] = expert(e, rows_RD[start : start + count])
        start += count
    return out_RD


def _grouped_mm_takes(rows_RD: torch.Tensor, *weights: torch.Tensor) -> bool:
    """bfloat16 on a GPU, with every stride a multiple of 16 bytes: what torch's grouped matmul asks for."""
    return all(
        w.is_cuda and w.dtype == rows_RD.dtype == torch.bfloat16 and w.shape[0] and w.shape[2] and w.shape[2] % 8 == 0
        for w in weights
    )


def _grouped(
    rows_Ri: torch.Tensor, counts_e: torch.Tensor, weight_eoi: torch.Tensor, bias_eo: torch.Tensor | None
) -> torch.Tensor:
    """All experts in one launch, without asking the device for the counts."""
    ends_e = counts_e.cumsum(0).to(torch.int32)
    y_Ro = F.grouped_mm(rows_Ri, weight_eoi.transpose(-2, -1), offs=ends_e)
    if bias_eo is None:
        return y_Ro
    return y_Ro + bias_eo.to(y_Ro.dtype).repeat_interleave(counts_e, dim=0, output_size=len(rows_Ri))
