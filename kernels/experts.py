"""Gated experts: the door to the fast path of a device. Twins and the meaning of arguments: reference/experts.py."""

from __future__ import annotations

from typing import Any

import torch

from .device import has_cpu_kernels, has_gpu_kernels
from .gpu.experts_plan import Choice
from .reference import experts as reference
from .reference.experts import apply_glu as apply_glu  # of a dense layer: the same everywhere


def moe_experts(
    x_MD: torch.Tensor, keys: torch.Tensor, gate_up_egD: torch.Tensor, *args: Any, plan: Choice | None = None
) -> torch.Tensor:
    """Weights dense, in any float dtype; arguments as the twin's. `plan` is the tiles of a GPU."""
    if has_gpu_kernels(x_MD) and gate_up_egD.dtype == torch.bfloat16:
        from .gpu.experts import moe_experts as gpu

        return gpu(x_MD, keys, gate_up_egD, *args, plan=plan)  # type: ignore[misc]
    return _module(x_MD).moe_experts(x_MD, keys, gate_up_egD, *args)


def moe_experts_mxfp4(x_MD: torch.Tensor, *args: Any) -> torch.Tensor:
    """Weights packed in MXFP4 as a checkpoint has them; arguments as the twin's. A GPU wants them swizzled instead: see

    gpu/experts_mxfp4.py.
    """
    return _module(x_MD).moe_experts_mxfp4(x_MD, *args)


def _module(x_MD: torch.Tensor) -> Any:
    if has_cpu_kernels(x_MD):
        from .cpu import experts as cpu

        return cpu
    return reference
