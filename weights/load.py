"""Streams a checkpoint's tensors into slots: every rank reads its own part, through one small buffer.

In: an open Checkpoint and the slots of this rank's model. Out: the slots filled, in the order of the list, so that a
model may allocate, convert and free as it goes. Host memory grows by one chunk, whatever the checkpoint weighs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase

import torch

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .slot import Slot

TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

CHUNK_BYTES = 8 << 20  # larger ones fall out of the processor's cache between the read and the copy: 1.3 x slower
SEEK_BYTES = 64 << 10  # a gap shorter than this is read over: the disk fetches it anyway
NAN_SCALE = 255  # E8M0 has one NaN (OCP Microscaling Formats, 5.4.1)

Progress = Callable[[int, int], None]


def load(
    checkpoint: Checkpoint,
    slots: Iterable[Slot],
    *,
    expected: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    progress: Progress | None = None,
    check_finite: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
) -> int:
    """Fill `slots` from `checkpoint`; returns the bytes this rank took.

    `expected` is the full set of names the model has (default: those of the slots): any other tensor in the checkpoint
    is refused unless one of the glob patterns `ignore` matches it. `progress(done, total)` is called after each chunk,
    in bytes. A slot with an empty range is checked, and its `put` is not called. Two slots may share a name.

    Names, shapes and dtypes of all slots are checked before a byte is read. Raises CheckpointError for what the
    checkpoint does wrong (also NaN and infinity in what is read, unless not `check_finite`), ValueError for a slot
    whose `take` does not fit its shape.
    """
    parts = [_Part(slot, checkpoint) for slot in slots]
    names = {part.slot.name for part in parts} | set(expected or ())
    _refuse_surplus(checkpoint, names, tuple(ignore))
    for name in sorted(names.difference(checkpoint)):
        checkpoint.info(name)  # raises
    total = sum(part.rows * part.segment_bytes for part in parts)
    # One buffer for all: a chunk, or where one row alone is longer than that, the row.
    widest = max((part.chunk_rows(chunk_bytes) * part.segment_bytes for part in parts if part.rows), default=0)
    buffer = torch.empty(widest, dtype=torch.uint8)
    done = 0
    for part in parts:
        for offset, chunk in part.chunks(buffer, chunk_bytes):
            if check_finite and not _finite(chunk, part.slot.name):
                raise CheckpointError(
                    part.file.path,
                    f"holds NaN or infinity near row {part.take[0].start + offset}",
                    tensor=part.slot.name,
                    mend="the conversion that wrote it went wrong, or the file is damaged: fetch it again",
                )
            part.slot.put(offset, chunk)
            done += chunk.shape[0] * part.segment_bytes
            if progress is not None:
                progress(done, total)
    return done


class _Part:
    """One slot matched with its file: what to read per row, and what to cut from it afterwards.

    The needed stretch of a row, its "segment", is what `take[1]` leaves when the stretch left out is worth a seek;
    the rest of `take` is cut from the buffer as a view.
    """

    def __init__(self, slot: Slot, checkpoint: Checkpoint) -> None:
        self.slot = slot
        self.file = checkpoint.file_of(slot.name)
        self.info = checkpoint.info(slot.name)
        if self.info.shape != tuple(slot.shape):
            raise self._wrong(f"shape is {list(self.info.shape)}, config.json calls for {list(slot.shape)}")
        if self.info.dtype not in slot.dtypes or self.info.dtype not in TORCH_DTYPES:
            raise self._wrong(f"dtype is {self.info.dtype}, not one of {', '.join(sorted(slot.dtypes))}")
        self.dtype = TORCH_DTYPES[self.info.dtype]
        self.shape = self.info.shape or (1,)  # a scalar is one row
        self.take = checked_take(slot)
        self.rows = len(self.take[0]) if all(self.take) else 0
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.segment_start, self.segment_bytes, self.inner = 0, self.row_bytes, self.shape[1:]
        if len(self.shape) > 1 and len(self.take[1]) < self.shape[1]:
            stride = math.prod(self.shape[2:]) * self.dtype.itemsize
            if len(self.take[1]) * stride >= SEEK_BYTES:
                self.segment_start, self.segment_bytes = self.take[1].start * stride, len(self.take[1]) * stride
                self.inner = (len(self.take[1]), *self.shape[2:])

    def chunk_rows(self, chunk_bytes: int) -> int:
        return max(1, min(self.rows, chunk_bytes // max(1, self.segment_bytes)))

    def chunks(self, buffer: torch.Tensor, chunk_bytes: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(rows from the start of `take[0]`, (rows, …) view of `buffer`), one after the other."""
        raw = buffer.numpy().data
        step = self.chunk_rows(chunk_bytes)
        for offset in range(0, self.rows, step):
            rows = min(step, self.rows - offset)
            start = self.info.start + (self.take[0].start + offset) * self.row_bytes + self.segment_start
            if self.segment_bytes == self.row_bytes:
                self.file.read(start, raw[: rows * self.row_bytes])
            else:
                for row in range(rows):
                    target = raw[row * self.segment_bytes : (row + 1) * self.segment_bytes]
                    self.file.read(start + row * self.row_bytes, target)
            chunk = buffer[: rows * self.segment_bytes].view(self.dtype).view(rows, *self.inner)
            for dim, taken in enumerate(self.take[1:], 1):
                if len(taken) < chunk.shape[dim]:
                    chunk = chunk.narrow(dim, taken.start, len(taken))
            yield offset, chunk

    def _wrong(self, fact: str) -> CheckpointError:
        return CheckpointError(
            self.file.path, fact, tensor=self.slot.name, mend="config.json and the weights do not belong together"
        )


def checked_take(slot: Slot) -> tuple[range, ...]:
    """`slot.take` with a range for every dimension (a scalar is one row). Raises ValueError where it does not fit."""
    shape = slot.shape or (1,)
    if len(slot.take) > len(shape):
        raise ValueError(f"{slot.name}: {len(slot.take)} ranges for {len(shape)} dimensions")
    take = slot.take + tuple(range(size) for size in shape[len(slot.take) :])
    for size, taken in zip(shape, take, strict=True):
        if taken.step != 1 or (len(taken) and not 0 <= taken.start < taken.stop <= size):
            raise ValueError(f"{slot.name}: {taken} does not lie in a dimension of {size}")
    return take


def _refuse_surplus(checkpoint: Checkpoint, names: set[str], ignore: tuple[str, ...]) -> None:
    for name in checkpoint:
        if name not in names and not any(fnmatchcase(name, pattern) for pattern in ignore):
            raise CheckpointError(
                checkpoint.file_of(name).path,
                "belongs to nothing in this model",
                tensor=name,
                mend="config.json and the weights do not belong together",
            )


def _finite(chunk: torch.Tensor, name: str) -> bool:
    if chunk.numel() == 0:
        return True
    if chunk.dtype.is_floating_point:
        # Not isfinite(): aminmax() needs no temporary of the chunk's size, and NaN comes through it.
        low, high = torch.aminmax(chunk if chunk.dtype.itemsize > 1 else chunk.to(torch.bfloat16))
        return math.isfinite(low) and math.isfinite(high)
    if chunk.dtype == torch.uint8 and name.endswith("_scales"):
        return int(chunk.max()) != NAN_SCALE
    return True
