"""Gated experts in plain torch: each token through the experts that it was routed to. Weights dense, MXFP4 or FP8.

M tokens, R pairs (a token and one of its experts), r those of one expert, e experts, D model width, f expert width,
g = 2f (gate and up interleaved: gate even, up odd).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from ..glu import Glu
from .linear import linear
from .mxfp4 import unpack
from .permute import group

FP8_BLOCK = 128  # weights a side of the square that shares one scale


def apply_glu(gate_up_Rg: torch.Tensor, glu: Glu) -> torch.Tensor:
    """Interleaved gates and ups to hidden_Rf, see `Glu`."""
    gate_Rf = gate_up_Rg[..., ::2].clamp(max=glu.limit)
    up_Rf = gate_up_Rg[..., 1::2].clamp(-glu.limit, glu.limit)
    return (up_Rf + glu.shift) * (gate_Rf * torch.sigmoid(glu.alpha * gate_Rf))


def moe_experts(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    gate_up_egD: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_eDf: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    glu: Glu,
    token_R: torch.Tensor | None = None,
) -> torch.Tensor:
    """Token m through expert keys[m, k], for every pair: rows of the shape of `keys`, and D, in x's dtype.

    `keys` int64 are (M, K), or (R,) where `token_R` int64 says whose pair each is. The key e means that the expert is
    not here: that row of the result is unspecified. Weights of another dtype are converted an expert at a time. A bias
    that is None adds nothing.
    """
    if _grouped_mm_takes(x_MD, gate_up_egD, down_eDf):
        return _grouped(x_MD, keys, token_R, gate_up_egD, gate_up_bias_eg, down_eDf, down_bias_eD, glu)

    # Unbound once: a gradient through 32 selections would fill 32 tensors of the whole's size.
    gate_up, down = gate_up_egD.unbind(), down_eDf.unbind()
    gate_up_bias, down_bias = (None if x is None else x.unbind() for x in (gate_up_bias_eg, down_bias_eD))

    def expert(e: int, x_rD: torch.Tensor) -> torch.Tensor:
        hidden_rf = apply_glu(linear(x_rD, gate_up[e], _at(gate_up_bias, e)), glu)
        return linear(hidden_rf, down[e], _at(down_bias, e))

    return each(x_MD, keys, token_R, len(gate_up_egD), expert)


def moe_experts_mxfp4(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    gate_up_blocks: torch.Tensor,
    gate_up_scales: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_blocks: torch.Tensor,
    down_scales: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    glu: Glu,
    token_R: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same with packed weights: blocks (e, out, in / 32, 16) and scales (e, out, in / 32), uint8.

    Expands one expert at a time into x's dtype, those alone that have pairs.
    """

    def expert(e: int, x_rD: torch.Tensor) -> torch.Tensor:
        gate_up_gD = unpack(gate_up_blocks[e], gate_up_scales[e], x_rD.dtype)
        hidden_rf = apply_glu(linear(x_rD, gate_up_gD, _at(gate_up_bias_eg, e)), glu)
        down_Df = unpack(down_blocks[e], down_scales[e], x_rD.dtype)
        return linear(hidden_rf, down_Df, _at(down_bias_eD, e))

    return each(x_MD, keys, token_R, len(gate_up_blocks), expert)


def moe_experts_fp8(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    gate_up_egD: torch.Tensor,
    gate_up_scales: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_eDf: torch.Tensor,
    down_scales: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    glu: Glu,
    token_R: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same with float8_e4m3fn weights under one float32 scale a square of 128 x 128 (DeepSeek-V3's format).

    gate_up_scales (e, 2, ceil(f / 128), ceil(D / 128)): gates have their own squares and ups theirs;
    down_scales (e, ceil(D / 128), ceil(f / 128)). Activations stay in x's dtype.
    """

    def expert(e: int, x_rD: torch.Tensor) -> torch.Tensor:
        halves = [_scaled(gate_up_egD[e, part::2], gate_up_scales[e, part], x_rD.dtype) for part in (0, 1)]
        gate_up_gD = torch.stack(halves, 1).flatten(0, 1)
        hidden_rf = apply_glu(linear(x_rD, gate_up_gD, _at(gate_up_bias_eg, e)), glu)
        return linear(hidden_rf, _scaled(down_eDf[e], down_scales[e], x_rD.dtype), _at(down_bias_eD, e))

    return each(x_MD, keys, token_R, len(gate_up_egD), expert)


def each(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    token_R: torch.Tensor | None,
    experts: int,
    expert: Callable[[int, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """One expert after the other on its own tokens. Host synchronisation on a GPU: the counts, to cut the rows."""
    order_R, counts_e = group(keys.flatten(), experts)
    token_R = order_R // max(1, keys.shape[-1]) if token_R is None else token_R[order_R]
    counts = counts_e.tolist()
    here = sum(counts)  # pairs of no expert here come last
    xs = x_MD[token_R[:here]].split(counts)
    rows_RD = torch.cat([expert(e, x_rD) for e, x_rD in enumerate(xs) if len(x_rD)] or [x_MD[:0]])
    out_RD = x_MD.new_empty(keys.numel(), x_MD.shape[1])
    out_RD[order_R[:here]] = rows_RD
    return out_RD.view(*keys.shape, x_MD.shape[1])


def _at(bias: Sequence[torch.Tensor] | torch.Tensor | None, e: int) -> torch.Tensor | None:
    return None if bias is None else bias[e]


def _scaled(weight_oi: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each weight times its square's scale, in float32, rounded once to `dtype`."""
    rows, columns = weight_oi.shape
    wide = scales.repeat_interleave(FP8_BLOCK, 0)[:rows].repeat_interleave(FP8_BLOCK, 1)[:, :columns]
    return (weight_oi.float() * wide).to(dtype)


def _grouped_mm_takes(x_MD: torch.Tensor, *weights: torch.Tensor) -> bool:
    """bfloat16 on a GPU, with every stride a multiple of 16 bytes: what torch's grouped matmul asks for."""
    return all(
        w.is_cuda and w.dtype == x_MD.dtype == torch.bfloat16 and w.shape[0] and w.shape[2] and w.shape[2] % 8 == 0
        for w in weights
    )


def _grouped(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    token_R: torch.Tensor | None,
    gate_up_egD: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_eDf: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    glu: Glu,
) -> torch.Tensor:
    """All experts in two launches, without asking the device for the counts; pairs of no expert here come last."""
    order_R, counts_e = group(keys.flatten(), len(gate_up_egD))
    key_R = keys.flatten()[order_R].clamp(max=len(gate_up_egD) - 1)
    token_R = order_R // max(1, keys.shape[-1]) if token_R is None else token_R[order_R]
    ends_e = counts_e.cumsum(0).to(torch.int32)

    def product(x_Ri: torch.Tensor, weight_eoi: torch.Tensor, bias_eo: torch.Tensor | None) -> torch.Tensor:
        y_Ro = F.grouped_mm(x_Ri, weight_eoi.transpose(-2, -1), offs=ends_e)
        return y_Ro if bias_eo is None else y_Ro + bias_eo.to(y_Ro.dtype)[key_R]

    rows_RD = product(apply_glu(product(x_MD[token_R], gate_up_egD, gate_up_bias_eg), glu), down_eDf, down_bias_eD)
    out_RD = torch.empty_like(rows_RD)
    out_RD[order_R] = rows_RD
    return out_RD.view(*keys.shape, x_MD.shape[1])
