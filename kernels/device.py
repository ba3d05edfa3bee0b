"""Which of our fast paths a tensor can take. The doors beside this file ask; each falls back to plain torch."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

OLDEST_GPU = (8, 0)  # bfloat16 matrix instructions


def has_cpu_kernels(x: torch.Tensor) -> bool:
    """float32 on a processor that our compiler knows, and nothing to differentiate."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
        return False
    from .cpu.host import available

    return available()


def has_gpu_kernels(x: torch.Tensor) -> bool:
    """bfloat16 on a CUDA device of Ampere's generation or later, with Triton, and nothing to differentiate."""
    return x.is_cuda and x.dtype == torch.bfloat16 and not torch.is_grad_enabled() and triton_runs_on(x.device)


@cache
def triton_runs_on(device: torch.device) -> bool:
    """Whether Triton is installed and compiles for this device."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST_GPU


def fastest_dtype(device: torch.device) -> torch.dtype:
    """That of matrix products with gradients: float32 on a processor without instructions for bfloat16.

    There torch's products in bfloat16 take 13 to 50 times as long as those in float32 (EPYC of the third generation).
    """
    if device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32
