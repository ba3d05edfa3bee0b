"""Compile ahead of the first request what a model will call."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch

from . import experts_program, linear


def warm(dense: Iterable[torch.dtype] = (torch.bfloat16, torch.float32), experts: Iterable[torch.dtype] = ()) -> float:
    """Compile `linear` for weights of the `dense` dtypes, and the experts for theirs (uint8: MXFP4).

    Takes some tenths of a second a kernel, once a process; nothing is kept on disk. Returns the seconds it took.
    """
    began = time.perf_counter()
    for dtype in dense:
        linear.program(dtype)
    for dtype in experts:
        experts_program.program(dtype)
    return time.perf_counter() - began
