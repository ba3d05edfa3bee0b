"""Attention over the paged cache: the door to the fast path of a device. Arguments: the reference twin's."""

from __future__ import annotations

import torch

from .cpu import attention as cpu
from .reference import attention as reference
from .reference.attention import store

__all__ = ["chunk_attention", "decode_attention", "store"]


def decode_attention(q_BHd: torch.Tensor, *args, **kwargs) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return (cpu if q_BHd.device.type == "cpu" else reference).decode_attention(q_BHd, *args, **kwargs)


def chunk_attention(q_NHd: torch.Tensor, *args, **kwargs) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return (cpu if q_NHd.device.type == "cpu" else reference).chunk_attention(q_NHd, *args, **kwargs)
