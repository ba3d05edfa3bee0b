"""Writes a checkpoint as safetensors shards with an index, one chunk of one tensor in memory at a time."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from .checkpoint import INDEX, SINGLE
from .errors import CheckpointError
from .load import TORCH_DTYPES, Progress
from .safetensors_file import ITEM_BYTES


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; `dtype` as safetensors spells it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


Chunks = Callable[[TensorSpec], Iterable[torch.Tensor]]


def write_checkpoint(
    directory: Path,
    specs: Sequence[TensorSpec],
    chunks: Chunks,
    *,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
) -> None:
    """Write `specs` into `directory`: one file when all fit into `max_shard_bytes`, else shards and an index.

    `chunks(spec)` yields the tensor's values in order, in pieces of any shape and of the spec's dtype; it is called
    once for each spec, in an order of the writer's choosing. Files appear under their names only when complete, the
    index last. Raises CheckpointError when the directory holds weights already or the disk is too small, ValueError
    when `chunks` yields another dtype or size than the spec says.
    """
    directory.mkdir(parents=True, exist_ok=True)
    total = sum(spec.nbytes for spec in specs)
    _check_room(directory, total)
    shards = _shards(specs, max_shard_bytes)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    done = 0
    for name, shard in zip(names if len(shards) > 1 else [SINGLE], shards, strict=True):
        part = directory / f"{name}.part"
        try:
            with part.open("wb") as file:
                file.write(_header(shard))
                for spec in shard:
                    done = _write_tensor(file, spec, chunks(spec), done, total, progress)
                file.flush()
                os.fsync(file.fileno())
            part.replace(directory / name)
        except OSError as e:
            raise CheckpointError(part, e.strerror or "cannot be written", mend="free space, or another disk") from None
        finally:
            part.unlink(missing_ok=True)
    if len(shards) > 1:
        weight_map = {spec.name: name for name, shard in zip(names, shards, strict=True) for spec in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(directory / INDEX, index)


def write_json(path: Path, value: object) -> None:
    """Pretty JSON; the file appears only when complete."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text; the file appears only when complete. Raises CheckpointError."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as e:
        raise CheckpointError(path, e.strerror or "cannot be written", mend="free space, or another disk") from None
    finally:
        part.unlink(missing_ok=True)


def _check_room(directory: Path, total: int) -> None:
    for entry in directory.iterdir():
        if entry.name == INDEX or entry.name.endswith(".safetensors"):
            raise CheckpointError(entry, "is there already", mend="choose another directory, or delete it first")
    free = shutil.disk_usage(directory).free
    if total > free:
        fact = f"{total / 1e9:.1f} GB are to be written and {free / 1e9:.1f} GB are free"
        raise CheckpointError(directory, fact, mend="free space, or another disk")


def _shards(specs: Sequence[TensorSpec], max_shard_bytes: int) -> list[list[TensorSpec]]:
    """Neighbours share a shard. Inside it wider types come first, which aligns every tensor to its element."""
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return [sorted(shard, key=lambda spec: -ITEM_BYTES[spec.dtype]) for shard in shards]


def _header(shard: list[TensorSpec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for spec in shard:
        begin, end = end, end + spec.nbytes
        entries[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def _write_tensor(
    file: BinaryIO, spec: TensorSpec, chunks: Iterable[torch.Tensor], done: int, total: int, progress: Progress | None
) -> int:
    written = 0
    for chunk in chunks:
        if chunk.dtype != TORCH_DTYPES[spec.dtype]:
            raise ValueError(f"{spec.name}: a chunk of {chunk.dtype} for a tensor of {spec.dtype}")
        file.write(chunk.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        written += chunk.nbytes
        if progress is not None:
            progress(done + written, total)
    if written != spec.nbytes:
        raise ValueError(f"{spec.name}: {written} bytes came, {spec.nbytes} were announced")
    return done + written
