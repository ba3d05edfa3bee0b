"""One safetensors file: a header that is believed only after every rule of the format held, and reads by position.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes
without holes (https://huggingface.co/docs/safetensors). Nothing is memory-mapped: a mapped file counts into the
resident memory of every rank that reads it. No torch.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .strict_json import open_regular, parse_json

# Bytes an element, for the types that fill whole bytes.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}

HEADER_LIMIT = 32 << 20  # the format allows 100 MB; 100,000 tensors, more than any public file has, take 15
MOST_DIMS = 8
LONGEST_NAME = 1024

AGAIN = "the file is damaged: fetch or convert it again"
NOT_PICKLE = "pickle can run code and is never loaded: convert the weights to safetensors"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: `start` counts bytes from the start of the file."""

    dtype: str  # as safetensors spells it, a key of ITEM_BYTES
    shape: tuple[int, ...]
    start: int
    nbytes: int


class SafetensorsFile:
    """An open file and the table of its tensors. Raises CheckpointError from every method; close() when done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(open_regular(path), "rb", buffering=0)  # noqa: SIM115
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.tensors = self._parse_header()
        except BaseException:
            self.close()
            raise

    def read(self, start: int, target: memoryview) -> None:
        """Fill `target` (writable bytes) from byte `start` of the file. Not for two threads at once."""
        done = 0
        try:
            self._file.seek(start)
            while done < len(target):
                got = self._file.readinto(target[done:])
                if not got:
                    raise CheckpointError(self.path, "became shorter while it was read", mend=AGAIN)
                done += got
        except OSError as e:
            raise CheckpointError(self.path, f"cannot be read ({e.strerror})", mend="check the disk") from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _parse_header(self) -> dict[str, TensorInfo]:
        if self.size == 0:
            raise CheckpointError(self.path, "is empty", mend=AGAIN)
        if self.size < 8:
            raise CheckpointError(self.path, f"is truncated: {self.size} bytes hold no header", mend=AGAIN)
        prefix = bytearray(8)
        self.read(0, memoryview(prefix))
        if prefix[:4] == b"PK\x03\x04" or (prefix[0] == 0x80 and 2 <= prefix[1] <= 5 and prefix[7] != 0):
            raise CheckpointError(self.path, "is a pickle under another name", mend=NOT_PICKLE)
        (length,) = struct.unpack("<Q", prefix)
        if length > HEADER_LIMIT:
            fact = f"the header claims {length} bytes, more than the limit of {HEADER_LIMIT}"
            raise CheckpointError(self.path, fact, mend="this is no safetensors file, or a damaged one: fetch it again")
        if 8 + length > self.size:
            fact = f"is truncated: the header claims {length} bytes, the file has {self.size}"
            raise CheckpointError(self.path, fact, mend=AGAIN)
        data = bytearray(length)
        self.read(8, memoryview(data))
        header = parse_json(bytes(data), self.path, "the header")
        if data[:1] != b"{":
            raise CheckpointError(self.path, "the header does not begin with '{'", mend=AGAIN)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise CheckpointError(self.path, "__metadata__ is not a table of strings", mend=AGAIN)
        tensors = {name: self._parse_entry(name, entry, 8 + length) for name, entry in header.items()}
        self._check_layout(tensors, 8 + length)
        return tensors

    def _parse_entry(self, name: str, entry: Any, base: int) -> TensorInfo:
        def wrong(fact: str) -> CheckpointError:
            return CheckpointError(self.path, fact, tensor=name, mend=AGAIN)

        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            raise wrong("the name is empty, too long or unprintable")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise wrong("the entry is not {dtype, shape, data_offsets}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise wrong(f"dtype {dtype!r} is not known")
        if not _naturals(shape) or len(shape) > MOST_DIMS:
            raise wrong(f"shape {shape!r} is not a list of at most {MOST_DIMS} sizes")
        if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise wrong(f"data_offsets {offsets!r} are not [begin, end]")
        begin, end = offsets
        if base + end > self.size:
            there = self.size - base
            raise wrong(f"data_offsets end at {end}, but the file holds {there} bytes of data: truncated or damaged")
        nbytes = math.prod(shape) * ITEM_BYTES[dtype]
        if nbytes != end - begin:
            raise wrong(f"shape {shape} of {dtype} needs {nbytes} bytes, data_offsets give {end - begin}")
        return TensorInfo(dtype, tuple(shape), base + begin, nbytes)

    def _check_layout(self, tensors: dict[str, TensorInfo], base: int) -> None:
        """The tensors must tile the data exactly: no overlap (two names for one weight), no hole (hidden bytes)."""
        end = base
        for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
            if info.start != end:
                fact = f"data_offsets begin at {info.start - base}, but the data before ends at {end - base}"
                raise CheckpointError(self.path, fact, tensor=name, mend=AGAIN)
            end = info.start + info.nbytes
        if end != self.size:
            raise CheckpointError(
                self.path, f"{self.size - end} bytes after the last tensor belong to none", mend=AGAIN
            )


def _naturals(value: Any) -> bool:
    """A list of sizes. `type(x) is int`, because True is an int too."""
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 1 << 62 for x in value)
