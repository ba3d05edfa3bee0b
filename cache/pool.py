"""The pages of one cache group: who may write where. Page numbers go out, page numbers come back; knows no requests."""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """Pages 0 … num_pages - 1, each either free or held once. Every verb costs O(1) a page.

    The page that came back last goes out first: it is the one most likely still in a processor's cache.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ValueError(f"a page pool needs at least one page, got {num_pages}")
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._held = bytearray(num_pages)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.num_pages - len(self._free)

    def take(self, n: int) -> list[int] | None:
        """`n` free pages, or None, and nothing taken, when fewer are free."""
        if n < 0:
            raise ValueError(f"cannot take {n} pages")
        rest = len(self._free) - n
        if rest < 0:
            return None
        pages = self._free[rest:]
        del self._free[rest:]
        for page in pages:
            self._held[page] = 1
        return pages

    def give_back(self, pages: Iterable[int]) -> None:
        """Free `pages`. Raises ValueError at a page that is not held, for two requests would come to share it."""
        held, free = self._held, self._free
        for page in pages:
            if not 0 <= page < self.num_pages or not held[page]:
                raise ValueError(f"page {page} of {self.num_pages} is given back but not held")
            held[page] = 0
            free.append(page)
