"""Gated experts on grouped rows: the door to the fast path of a device. Twin: reference/experts.py."""

from __future__ import annotations

from typing import Any

import torch

from .cpu.host import available
from .reference import experts as reference


def moe_experts(rows_RD: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """Weights dense, in any float dtype; arguments as the twin's."""
    return _module(rows_RD).moe_experts(rows_RD, *args, **options)


def moe_experts_mxfp4(rows_RD: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """Weights packed in MXFP4; arguments as the twin's."""
    return _module(rows_RD).moe_experts_mxfp4(rows_RD, *args, **options)


def _module(rows_RD: torch.Tensor) -> Any:
    if rows_RD.device.type == "cpu" and rows_RD.dtype == torch.float32 and not torch.is_grad_enabled() and available():
        from .cpu import experts as cpu

        return cpu
    return reference
