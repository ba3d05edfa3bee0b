"""Where one checkpoint tensor goes on this rank. Models list slots; the loader fills them, in the order of the list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

FLOATS = frozenset({"BF16", "F16", "F32"})
PACKED = frozenset({"U8"})

Put = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the checkpoint and the part of it that this rank keeps.

    The loader reads rows `take[0]` of the first dimension in bounded chunks, narrows the other dimensions to their
    `take`, and calls `put(offset, chunk)`: `chunk` is (rows, …) in the stored dtype on the CPU, valid only during the
    call; `offset` counts rows from the start of `take[0]`.
    """

    name: str
    shape: tuple[int, ...]  # in the checkpoint, whole
    put: Put
    take: tuple[range, ...] = ()  # one a dimension; missing ones are whole
    dtypes: frozenset[str] = FLOATS  # as safetensors spells them


def into(target: torch.Tensor) -> Put:
    """A `put` that copies rows into `target` (same row shape), converting dtype and device."""

    def put(offset: int, chunk: torch.Tensor) -> None:
        target[offset : offset + chunk.shape[0]].copy_(chunk)

    return put
