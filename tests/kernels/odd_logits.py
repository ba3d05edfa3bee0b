"""Router inputs on a grid, so that no rounding decides what is chosen."""

from __future__ import annotations

import math

import torch


def odd_logits(tokens: int, experts: int, spread: float) -> torch.Tensor:
    """Normal ones (float32, T x E) at odd multiples of 1/1024.

    Two that differ have different sigmoids, and none stands at the edge of a sparsemixer's band: l = (1 - 2 jitter) m
    has no odd solutions where 2 jitter is 0.6 or 0.02.
    """
    return ((torch.randn(tokens, experts) * spread * 512).round() * 2 + 1) / 1024


def odd_router(
    tokens: int, width: int, experts: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (T, D), weight (E, D) and bias (E) of which the logits are such, at another grid: exact in any order of adding.

    About normal, x and bias with deviation 1, weight with 2 / sqrt(D). In bfloat16 as in float32.
    """
    unit = 2.0 ** (math.floor(-math.log2(width) / 2) - 3)
    x = (torch.randn(tokens, width) * 8).round()
    weight = (torch.randn(experts, width) * (width**-0.5 / unit)).round() * 2
    x[:, -1] = (torch.randn(tokens) * 4).round() * 2 + 1  # times an odd weight: the one odd term of a logit
    weight[:, -1] += 1
    bias = (torch.randn(experts) * (4 / unit)).round() * 2
    return (x / 8).to(dtype), (weight * unit).to(dtype), (bias * unit / 8).to(dtype)
