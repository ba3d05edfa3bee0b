"""Attention over the paged cache: the door to the fast path of a device. Twins and meaning: reference/attention.py."""

from __future__ import annotations

from typing import Any

import torch

from .cpu import attention as cpu
from .device import has_cpu_kernels, has_gpu_kernels
from .reference import attention as reference
from .training import attention as training


def decode_attention(
    q_BHd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    pages_BP: torch.Tensor,
    first_B: torch.Tensor,
    positions_B: torch.Tensor,
    sinks_H: torch.Tensor | None,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """One new token a request, its key already in the cache; a row at a negative position is padding."""
    arguments = q_BHd, k_cache, v_cache, pages_BP, first_B, positions_B, sinks_H, window, scale
    if has_gpu_kernels(q_BHd):
        from .gpu.decode_attention import decode_attention as gpu

        return gpu(*arguments)
    if has_cpu_kernels(q_BHd):
        from .cpu import decode_attention as compiled

        if k_cache.dtype in compiled.DTYPES:
            return compiled.decode_attention(*arguments)
    return _plain(q_BHd).decode_attention(*arguments)


def prefill_attention(
    q_NHd: torch.Tensor,
    k_Nhd: torch.Tensor,
    v_Nhd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    pages_CP: torch.Tensor,
    first_C: torch.Tensor,
    offsets_C1: torch.Tensor,
    starts_C: torch.Tensor,
    sinks_H: torch.Tensor | None,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """Chunks of new tokens over what the cache holds before them, and themselves."""
    arguments = (q_NHd, k_Nhd, v_Nhd, k_cache, v_cache, pages_CP, first_C, offsets_C1, starts_C, sinks_H, window, scale)
    if has_gpu_kernels(q_NHd):
        from .gpu.prefill_attention import prefill_attention as gpu

        return gpu(*arguments)
    if torch.is_grad_enabled() and q_NHd.device.type == "cpu":
        return training.prefill_attention(*arguments)
    return _plain(q_NHd).prefill_attention(*arguments)


def _plain(q: torch.Tensor) -> Any:
    """torch's flash kernel on a CPU; it has no gradient of the log-sum-exp that it is merged by."""
    return reference if q.device.type != "cpu" or torch.is_grad_enabled() else cpu
