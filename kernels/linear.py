"""y = x W^T + b: the door to the fastest way of doing it on this device. Twin and meaning: reference/linear.py."""

from __future__ import annotations

import torch

from .cpu.host import available
from .reference.linear import linear as reference


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(…, in) by (out, in) -> (…, out), in x's dtype whatever the weight is stored in."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled() and available():
        from .cpu import linear as cpu

        if weight.dtype in cpu.DTYPES and weight.is_contiguous():
            return cpu.linear(x, weight, bias)
    return reference(x, weight, bias)
