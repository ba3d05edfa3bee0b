"""y = x W^T + b, in the activation's dtype whatever the weight is stored in."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(…, in) by (out, in) -> (…, out). A weight or bias of another dtype is converted to x's for the call."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
