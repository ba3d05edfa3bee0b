"""Gated experts on a GPU with weights in MXFP4, swizzled while loading (mxfp4_layout.py)."""

from __future__ import annotations

import torch

from ..glu import Glu
from .experts_plan import Choice
from .experts_run import Matrices, run
from .mxfp4_layout import Swizzled


def moe_experts_mxfp4(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    gate_up: Swizzled,
    gate_up_bias_eg: torch.Tensor | None,
    down: Swizzled,
    down_bias_eD: torch.Tensor | None,
    glu: Glu,
    token_R: torch.Tensor | None = None,
    plan: Choice | None = None,
) -> torch.Tensor:
    """Token m through expert keys[m, k]; x, keys, biases, token_R and the result as `reference.experts.moe_experts`.

    x in bfloat16. `gate_up` is a gated matrix (2 f, D), its biases interleaved as in a checkpoint; `down` (D, f). No
    synchronisation with the host. Raises ValueError for shapes that do not fit together.
    """
    hidden = x_MD.shape[1]
    if not gate_up.gated or down.gated:
        raise ValueError("gate_up has to be swizzled as gated, down as not gated")
    if gate_up.columns != hidden or (down.rows, 2 * down.columns) != (hidden, gate_up.rows):
        raise ValueError(
            f"rows of {hidden}, gate_up {gate_up.rows} x {gate_up.columns} and down {down.rows} x {down.columns} "
            "do not fit together"
        )
    if len(gate_up.words) != len(down.words):
        raise ValueError(f"gate_up of {len(gate_up.words)} experts, down of {len(down.words)}")
    return run(x_MD, keys, token_R, _matrices(gate_up, gate_up_bias_eg), _matrices(down, down_bias_eD), glu, plan)


def _matrices(weights: Swizzled, bias: torch.Tensor | None) -> Matrices:
    if bias is not None and bias.shape != (len(weights.words), weights.rows):
        raise ValueError(f"biases {(len(weights.words), weights.rows)} wanted, got {tuple(bias.shape)}")
    bias = None if bias is None else bias.contiguous()
    return Matrices("mxfp4", weights.words, weights.scales, bias, len(weights.words), weights.rows, weights.columns)
