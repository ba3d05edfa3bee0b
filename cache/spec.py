"""The shape of the paged cache: which layers share pages, how large a page is, how many there are. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Layers whose keys and values live under one page table. A page holds `page_size` tokens of all of them.

    `window` None: full attention, pages are kept while the request runs. Otherwise a token attends to itself and
    the `window - 1` before it, and pages that lie wholly before that are given back.
    """

    name: str
    layers: tuple[int, ...]
    window: int | None
    num_pages: int


@dataclass(frozen=True, slots=True)
class CacheSpec:
    page_size: int
    groups: tuple[GroupSpec, ...]
