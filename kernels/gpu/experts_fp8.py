"""Gated experts on a GPU with weights in float8 under a scale a square. Twin: ../reference/experts.py."""

from __future__ import annotations

import torch

from ..glu import Glu
from .experts_plan import Choice
from .experts_run import Matrices, run


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
    plan: Choice | None = None,
) -> torch.Tensor:
    """x in bfloat16, weights float8_e4m3fn. The scales multiply products in float32: no weight is rounded again."""
    experts, gates, inner = gate_up_egD.shape
    up = Matrices("fp8", gate_up_egD, gate_up_scales, gate_up_bias_eg, experts, gates, inner)
    down = Matrices("fp8", down_eDf, down_scales, down_bias_eD, experts, inner, gates // 2)
    return run(x_MD, keys, token_R, up, down, glu, plan)
