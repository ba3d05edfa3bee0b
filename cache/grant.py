"""What the cache manager hands out and a step plan carries to the ranks. Crosses ranks as msgpack; no torch."""

from __future__ import annotations

import msgspec


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """Pages that a request newly holds in one cache group: logical pages `first`, `first + 1`, … are `pages`."""

    first: int
    pages: list[int]
