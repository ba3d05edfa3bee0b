"""Gated experts on a GPU with weights in MXFP4, swizzled while loading (mxfp4_layout.py)."""

from __future__ import annotations

import torch

from ..glu import Glu
from .experts_plan import Plan
from .experts_run import Matrices, run
from .mxfp4_layout import swizzled_shape


def moe_experts_mxfp4(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    gate_up_words: torch.Tensor,
    gate_up_scales: torch.Tensor,
    gate_up_bias_eg: torch.Tensor | None,
    down_words: torch.Tensor,
    down_scales: torch.Tensor,
    down_bias_eD: torch.Tensor | None,
    width: int,
    glu: Glu,
    token_R: torch.Tensor | None = None,
    plan: Plan | None = None,
) -> torch.Tensor:
    """Words int32 (e, …) and scales uint8 (e, …) as `swizzle` made them of each expert's matrices, gate_up gated.

    `width` is f, which granules do not tell. Else as `reference.experts.moe_experts`; x in bfloat16. Raises ValueError
    for shapes that do not fit together.
    """
    experts, hidden = len(gate_up_words), x_MD.shape[1]
    for name, words, scales, shape in (
        ("gate_up", gate_up_words, gate_up_scales, (2 * width, hidden)),
        ("down", down_words, down_scales, (hidden, width)),
    ):
        want = swizzled_shape(*shape)
        if (tuple(words.shape[1:]), tuple(scales.shape[1:])) != want or len(words) != experts:
            raise ValueError(f"{name}: {shape} swizzled is {want}, got {tuple(words.shape)} and {tuple(scales.shape)}")
    up = Matrices("mxfp4", gate_up_words, gate_up_scales, gate_up_bias_eg, experts, 2 * width, hidden)
    down = Matrices("mxfp4", down_words, down_scales, down_bias_eD, experts, hidden, width)
    return run(x_MD, keys, token_R, up, down, glu, plan)
