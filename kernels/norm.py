"""RMSNorm, alone and behind the residual addition: the door to the fast path of a device. Twins: reference/norm.py."""

from __future__ import annotations

import torch

from .device import has_cpu_kernels, has_gpu_kernels
from .reference import norm as reference
from .training import norm as training


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """Like x; computed in float32."""
    if has_gpu_kernels(x_TD):
        from .gpu.norm import rms_norm as gpu

        return gpu(x_TD, weight_D, eps)
    if has_cpu_kernels(x_TD) and weight_D.dtype == torch.float32:
        from .cpu.norm import rms_norm as cpu

        return cpu(x_TD, weight_D, eps)
    return (training if torch.is_grad_enabled() else reference).rms_norm(x_TD, weight_D, eps)


def add_norm(
    x_TD: torch.Tensor, y: torch.Tensor, weights_TK: torch.Tensor | None, weight_D: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + y, its norm); y is (T, D), or (T, K, D) to be summed with `weights_TK`."""
    if has_gpu_kernels(x_TD):
        from .gpu.norm import add_norm as gpu

        return gpu(x_TD, y, weights_TK, weight_D, eps)
    if has_cpu_kernels(x_TD) and y.dtype == weight_D.dtype == torch.float32:
        from .cpu.norm import add_norm as cpu

        return cpu(x_TD, y, weights_TK, weight_D, eps)
    return (training if torch.is_grad_enabled() else reference).add_norm(x_TD, y, weights_TK, weight_D, eps)
