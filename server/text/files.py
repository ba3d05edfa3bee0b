"""Small files of a checkpoint: read whole, but only regular ones of a sane size."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec


def read_regular(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises FileNotFoundError where there is none, else ValueError (one line, names the file)."""
    try:
        # Non-blocking, so that a named pipe in a checkpoint cannot hold the server at open().
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is not a regular file; put the checkpoint's own file there")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit >> 20} MiB; put the checkpoint's own file there")
    return data


def read_json_object(path: Path, limit: int) -> dict[str, Any]:
    """A file that holds one JSON object. Raises as `read_regular` does."""
    try:
        value = msgspec.json.decode(read_regular(path, limit))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download the file again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}; download the file again")
    return value
