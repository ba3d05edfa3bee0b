"""`--load-format dummy`: fills slots with random weights of the true shapes, and no file is read."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from .load import CHUNK_BYTES, Progress, checked_take
from .noise import Noise
from .slot import PACKED, Slot


def fill(
    slots: Iterable[Slot],
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> int:
    """Fill `slots` in order; returns the bytes made. `dtype` is what the float tensors would be stored in.

    Every layout of ranks gets the same logical weights, those of a random checkpoint of the same seed and dtype.
    Raises ValueError for a slot whose `take` does not fit its shape.
    """
    noise = Noise(seed)
    parts = [(slot, slot.shape or (1,), take) for slot in slots if all(take := checked_take(slot))]
    # Counted as whole rows, as weights/load.py counts what it reads.
    total = sum(len(take[0]) * _row_bytes(slot, shape, dtype) for slot, shape, take in parts)
    done = 0
    for slot, shape, take in parts:
        row_bytes = _row_bytes(slot, shape, dtype)
        stored = torch.uint8 if slot.dtypes == PACKED else dtype
        step = max(1, chunk_bytes // max(1, row_bytes))
        for offset in range(0, len(take[0]), step):
            rows = take[0][offset : offset + step]
            chunk = noise.rows(slot.name, shape, rows, stored)
            for dim, taken in enumerate(take[1:], 1):
                chunk = chunk.narrow(dim, taken.start, len(taken))
            slot.put(offset, chunk)
            done += len(rows) * row_bytes
            if progress is not None:
                progress(done, total)
    return done


def _row_bytes(slot: Slot, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape[1:]) * (1 if slot.dtypes == PACKED else dtype.itemsize)
