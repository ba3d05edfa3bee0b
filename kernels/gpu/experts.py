"""Gated experts on a GPU with plain weights, as they lie in a loaded model. Twin: ../reference/experts.py."""

from __future__ import annotations

import torch

from ..glu import Glu
from .experts_plan import Choice
from .experts_run import Matrices, run


def moe_experts(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    gate_up_egD: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_eDf: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    glu: Glu,
    token_R: torch.Tensor | None = None,
    plan: Choice | None = None,
) -> torch.Tensor:
    """x and weights in bfloat16, products in float32, the hidden rows between them in bfloat16; else as the twin."""
    experts, gates, inner = gate_up_egD.shape
    up = Matrices("dense", gate_up_egD, gate_up_egD, gate_up_bias_eg, experts, gates, inner)
    down = Matrices("dense", down_eDf, down_eDf, down_bias_eD, experts, inner, gates // 2)
    return run(x_MD, keys, token_R, up, down, glu, plan)
