"""RMSNorm, alone and behind the residual addition, with gradients of few passes. Twins: ../reference/norm.py."""

from __future__ import annotations

from typing import Any

import torch


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """As the twin, in float32 (float64 of float64)."""
    return _RmsNorm.apply(x_TD, weight_D, eps)


def add_norm(
    x_TD: torch.Tensor, y: torch.Tensor, weights_TK: torch.Tensor | None, weight_D: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the twin; the K rows of a token are summed in one product."""
    if weights_TK is not None:
        y = (y * weights_TK[..., None].to(y.dtype)).sum(1)
    sum_TD = x_TD + y
    return sum_TD, rms_norm(sum_TD, weight_D, eps)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        wide = torch.promote_types(x_TD.dtype, torch.float32)
        length_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True, dtype=wide)
        inverse_T1 = (length_T1.square() / x_TD.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x_TD, weight_D, inverse_T1)
        return (x_TD * inverse_T1).mul_(weight_D).to(x_TD.dtype)

    @staticmethod
    def backward(ctx: Any, grad_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        x_TD, weight_D, inverse_T1 = ctx.saved_tensors
        unit_TD = x_TD * inverse_T1
        along_TD = grad_TD * unit_TD
        weight_grad_D = along_TD.sum(0)
        share_T1 = along_TD.mul_(weight_D).mean(-1, keepdim=True)
        x_grad_TD = (grad_TD * weight_D).sub_(unit_TD.mul_(share_T1)).mul_(inverse_T1)
        return x_grad_TD.to(x_TD.dtype), weight_grad_D.to(weight_D.dtype), None
