"""Gated experts: the door to the fast path of a device. Twins and the meaning of arguments: reference/experts.py."""

from __future__ import annotations

from typing import Any

import torch

from .cpu.host import available
from .reference import experts as reference


def moe_experts(x_MD: torch.Tensor, *args: Any) -> torch.Tensor:
    """Weights dense, in any float dtype; arguments as the twin's."""
    return _module(x_MD).moe_experts(x_MD, *args)


def moe_experts_mxfp4(x_MD: torch.Tensor, *args: Any) -> torch.Tensor:
    """Weights packed in MXFP4; arguments as the twin's."""
    return _module(x_MD).moe_experts_mxfp4(x_MD, *args)


def _module(x_MD: torch.Tensor) -> Any:
    if x_MD.device.type == "cpu" and x_MD.dtype == torch.float32 and not torch.is_grad_enabled() and available():
        from .cpu import experts as cpu

        return cpu
    return reference
