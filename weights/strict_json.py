"""JSON files of a checkpoint, read as from a stranger: regular, bounded, UTF-8, no key twice, no NaN. No torch."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from .errors import CheckpointError

JSON_LIMIT = 32 << 20  # bytes; the index of the largest public model has 10 MB

MEND = "fetch or convert the checkpoint again"


def open_regular(path: Path) -> int:
    """A read-only descriptor of the regular file that `path` is or links to. Blocks on no fifo, opens no device.

    Raises CheckpointError when there is no such file, when it is anything but a regular file, or may not be read.
    """
    try:
        mode = path.stat().st_mode
        # Looked at before it is opened, because to open some devices is to use them.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if stat.S_ISREG(mode) else -1
    except FileNotFoundError:
        raise CheckpointError(path, "does not exist", mend="complete the checkpoint: `yardmaster download`") from None
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        fact = (e.strerror if isinstance(e, OSError) else str(e)) or "cannot be opened"
        raise CheckpointError(path, fact, mend="make it a file that this user may read") from None
    if descriptor >= 0 and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    if descriptor >= 0:
        os.close(descriptor)
    raise CheckpointError(path, "is not a regular file", mend="put the file itself there, or a link to it")


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError for anything else."""
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            data = file.read(limit + 1)
        except OSError as e:
            raise CheckpointError(path, e.strerror or "cannot be read", mend=MEND) from None
    if len(data) > limit:
        raise CheckpointError(path, f"is longer than {limit} bytes", mend=MEND)
    return parse_json(data, path)


def parse_json(data: bytes, file: Path, what: str = "the file") -> dict[str, Any]:
    """The JSON object in `data`; `file` and `what` are for the message. Raises CheckpointError."""
    if not data.strip():
        raise CheckpointError(file, f"{what} is empty", mend=MEND)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise CheckpointError(file, f"{what} is nested too deeply", mend=MEND) from None
    except ValueError as e:  # JSONDecodeError, UnicodeDecodeError, a key twice, an integer of 5000 digits
        raise CheckpointError(file, f"{what} is not strict JSON ({e})", mend=MEND) from None
    if not isinstance(value, dict):
        raise CheckpointError(file, f"{what} is not a JSON object", mend=MEND)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    object_ = dict(pairs)
    if len(object_) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} stands there twice")
    return object_


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
