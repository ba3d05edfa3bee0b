"""Rotary position embedding on halves (NeoX order) in plain torch."""

from __future__ import annotations

import torch


def apply_rope(x_THd: torch.Tensor, cos_Tf: torch.Tensor, sin_Tf: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (x[i], x[i + d/2]) of every head. cos, sin: (T, d/2), float32 or x's dtype."""
    first, second = x_THd.chunk(2, dim=-1)
    cos, sin = cos_Tf[:, None, :].to(x_THd.dtype), sin_Tf[:, None, :].to(x_THd.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
