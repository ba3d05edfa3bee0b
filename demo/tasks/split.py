"""Which contents are held out: decided by a hash of their text, so that no list of them has to be kept."""

from __future__ import annotations

import zlib


def held(text: str, one_in: int = 20) -> bool:
    """Whether `text` belongs to the evaluation; about one in `one_in` does."""
    return zlib.crc32(text.encode()) % one_in == 0


def same(expected: str, said: str) -> bool:
    """Equal but for case, the space around it and a full stop at the end."""
    return _bare(expected) == _bare(said)


def _bare(text: str) -> str:
    return " ".join(text.split()).rstrip(".! ").casefold()
