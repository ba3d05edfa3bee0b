"""Which pages each request holds, in every cache group. Positions enter, grants leave; the tensors are the ranks' own.

The rule that ranks and manager share. A full group writes all positions of a share. In a sliding group of window W,
in every layer:

1. each share of more than one token (a chunk) gathers the keys of the W - 1 positions before it from their pages;
2. all shares write: a chunk only the positions that a later step can still see, its last W - 1; one token itself;
3. a chunk attends over what it gathered and its own keys, one token over the pages of its W positions.

All reads of 1 precede all writes of 2, across all requests of the step. Therefore a chunk's pages that no later step
will see are given back while the step is planned, although the step still reads them, and another request may be
granted them in the same plan: the ranks' tables keep the old entries until they are overwritten. And logical pages
that a chunk would write only to forget are never granted: `Grant.first` jumps over them.
"""

from __future__ import annotations

from typing import cast

from .budget import most_pages
from .grant import Grant
from .pool import BlockPool
from .spec import CacheSpec


class Table:
    """Logical pages first … stop - 1 of one request in one group lie in `pages`."""

    __slots__ = ("first", "pages", "stop")

    def __init__(self) -> None:
        self.first = 0
        self.stop = 0
        self.pages: list[int] = []


class CacheManager:
    """Page tables of the live requests, one per group of `spec`, over one pool per group.

    Pages freed by one plan may be granted by the next: plans run in the order in which they were made.
    Raises ValueError for a spec without groups, pages, or a window of at least one token.
    """

    def __init__(self, spec: CacheSpec) -> None:
        if not spec.groups or spec.page_size < 1:
            raise ValueError(f"a cache needs a group and a page size, got {len(spec.groups)} and {spec.page_size}")
        for group in spec.groups:
            if group.window is not None and group.window < 1:
                raise ValueError(f"cache group {group.name}: the window must be at least 1 token, got {group.window}")
        self.spec = spec
        self.page_size = spec.page_size
        self.pools = [BlockPool(group.num_pages) for group in spec.groups]
        self._windows = [group.window for group in spec.groups]
        self._tables: dict[str, list[Table]] = {}
        self._nothing = [Grant(0, []) for _ in spec.groups]  # the answer to most tokens: shared, never changed

    def extend(self, request_id: str, start: int, count: int) -> list[Grant] | None:
        """Make room for positions [start, start + count) and drop what is not seen again; `start` is where it stopped.

        One grant per group, with no pages where nothing is new. None, and nothing changed, when a group lacks pages.
        """
        tables = self._tables.get(request_id)
        if tables is None:
            tables = [Table() for _ in self.pools]
        end, size = start + count, self.page_size
        stop = -(-end // size)
        unseen = end + (count > 1)  # minus the window: the first position that a later step, or this token, can see
        for window, table in zip(self._windows, tables, strict=True):
            if table.stop < stop or (window is not None and table.first < (unseen - window) // size):
                break
        else:
            return self._nothing

        changes = []
        for pool, window, table in zip(self.pools, self._windows, tables, strict=True):
            keep = table.first if window is None else max(table.first, (unseen - window) // size)
            dropped = table.pages[: keep - table.first]
            first = max(table.stop, keep)
            need = max(0, stop - first)
            if need > pool.free + len(dropped):
                return None
            changes.append((pool, table, dropped, keep, first, need))
        self._tables[request_id] = tables
        grants = []
        for pool, table, dropped, keep, first, need in changes:
            pool.give_back(dropped)
            pages = cast("list[int]", pool.take(need))  # there are as many: counted above
            del table.pages[: len(dropped)]
            table.pages += pages
            table.first, table.stop = keep, first + need
            grants.append(Grant(first, pages))
        return grants

    def release(self, request_id: str) -> None:
        """Give back all that a request holds; nothing, when it holds nothing."""
        for pool, table in zip(self.pools, self._tables.pop(request_id, ()), strict=False):
            pool.give_back(table.pages)

    def fits(self, num_tokens: int) -> bool:
        """Whether a request of `num_tokens` could ever run, alone."""
        return all(self._most(group, num_tokens) <= pool.num_pages for group, pool in enumerate(self.pools))

    def has_room(self, num_tokens: int) -> bool:
        """Whether the pages that are free now would carry one more request to `num_tokens`."""
        return all(self._most(group, num_tokens) <= pool.free for group, pool in enumerate(self.pools))

    def _most(self, group: int, num_tokens: int) -> int:
        return most_pages(num_tokens, self._windows[group], self.page_size)

    @property
    def usage(self) -> float:
        """How full the fuller of the pools is, 0 … 1."""
        return max(pool.used / pool.num_pages for pool in self.pools)

    @property
    def tokens_capacity(self) -> int:
        """Tokens that fit at once: what the smallest full group holds, or the smallest group when all of them slide."""
        full = [pool.num_pages for pool, window in zip(self.pools, self._windows, strict=True) if window is None]
        return min(full or [pool.num_pages for pool in self.pools]) * self.page_size
