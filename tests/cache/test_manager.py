from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yardmaster.cache.manager import CacheManager
from yardmaster.cache.spec import CacheSpec, GroupSpec


def manager(page_size: int, *groups: tuple[int | None, int]) -> CacheManager:
    specs = tuple(GroupSpec(f"g{i}", (i,), window, pages) for i, (window, pages) in enumerate(groups))
    return CacheManager(CacheSpec(page_size, specs))


def used(cache: CacheManager) -> list[int]:
    return [pool.used for pool in cache.pools]


def needed(start: int, count: int, window: int | None, size: int) -> set[int]:
    """Logical pages with a position that this share writes, or that it or a later one reads from pages, by trying."""
    end = start + count
    if window is None:
        positions = set(range(end))
    elif count == 1:
        positions = {p for p in range(end) if p > start - window}
    else:
        positions = {p for p in range(end) if p > end - window}  # what the next token sees
    return {p // size for p in positions}


@given(
    size=st.integers(1, 5),
    windows=st.lists(st.sampled_from([None, 2, 3, 4, 7, 16]), min_size=1, max_size=3),
    counts=st.lists(st.one_of(st.just(1), st.integers(1, 30)), min_size=1, max_size=30),
)
def test_a_table_holds_what_is_needed_and_grants_tell_it(
    size: int, windows: list[int | None], counts: list[int]
) -> None:
    cache = manager(size, *((window, 400) for window in windows))
    shadows: list[dict[int, int]] = [{} for _ in windows]
    start = 0
    for count in counts:
        grants = cache.extend("a", start, count)
        assert grants is not None
        for window, shadow, grant, pool in zip(windows, shadows, grants, cache.pools, strict=True):
            new = {grant.first + i: page for i, page in enumerate(grant.pages)}
            pages = needed(start, count, window, size)
            assert not new.keys() & shadow.keys()
            assert new.keys() <= pages, "a page is taken that nobody will read"
            shadow.update(new)
            assert pages <= shadow.keys()
            for logical in shadow.keys() - pages:
                del shadow[logical]
            assert pool.used == len(shadow) == len(set(shadow.values()))
            if window is not None:
                assert pool.used <= -(-window // size) + 1
        start += count
    cache.release("a")
    assert used(cache) == [0] * len(windows)


def test_chunks_jump_over_what_is_forgotten() -> None:
    cache = manager(4, (None, 100), (8, 100))
    grants = cache.extend("a", 0, 41)
    assert grants is not None
    assert (grants[0].first, len(grants[0].pages)) == (0, 11)
    assert (grants[1].first, len(grants[1].pages)) == (8, 3)  # positions 34 … 40
    grants = cache.extend("a", 41, 1)
    assert grants is not None
    assert [grant.pages for grant in grants] == [[], []]
    assert used(cache) == [11, 3]
    cache.extend("a", 42, 1)
    assert used(cache) == [11, 3]
    cache.extend("a", 43, 1)  # sees 36 … 43: page 8 goes
    assert used(cache) == [11, 2]


def test_a_lack_in_any_group_changes_nothing() -> None:
    cache = manager(2, (4, 6), (None, 10), (4, 3))
    assert cache.extend("a", 0, 6) is not None
    assert cache.extend("b", 0, 2) is not None
    before = used(cache)
    assert before == [3, 4, 3]
    tables = [list(table.pages) for table in cache._tables["b"]]
    # The sliding groups would give pages back and the full one has too few; then the other way round.
    assert cache.extend("a", 6, 20) is None
    assert cache.extend("b", 2, 4) is None
    assert cache.extend("c", 0, 1) is None
    assert used(cache) == before
    assert [table.pages for table in cache._tables["b"]] == tables
    assert set(cache._tables) == {"a", "b"}
    cache.release("b")
    assert cache.extend("a", 6, 4) is not None
    cache.release("a")
    assert used(cache) == [0, 0, 0]


def test_pages_given_back_are_reckoned_before_new_ones() -> None:
    cache = manager(2, (3, 2))  # two pages carry a window of three for ever
    for position in range(50):
        assert cache.extend("a", position, 1) is not None
    cache.release("a")
    assert cache.extend("a", 0, 9) is not None
    assert cache.extend("a", 9, 20) is not None
    assert cache.extend("b", 0, 1) is None


def test_release_is_idempotent_and_knows_strangers() -> None:
    cache = manager(2, (None, 3))
    cache.extend("a", 0, 5)
    cache.release("a")
    cache.release("a")
    cache.release("nobody")
    assert cache.pools[0].free == 3


@given(
    size=st.integers(1, 4),
    window=st.sampled_from([None, 1, 2, 3, 8]),
    pages=st.integers(1, 8),
    counts=st.lists(st.sampled_from([1, 1, 2, 5]), min_size=1, max_size=30),
)
def test_fits_is_what_can_run_alone(size: int, window: int | None, pages: int, counts: list[int]) -> None:
    cache = manager(size, (window, pages))
    start = 0
    for count in counts:
        if not cache.fits(start + count):
            break
        assert cache.extend("a", start, count) is not None
        start += count
    alone, position = manager(size, (window, pages)), 0
    while position < 60 and alone.extend("a", position, 1) is not None:
        position += 1
    assert all(cache.fits(n) for n in range(position + 1))
    assert position == 60 or not cache.fits(position + 1)


def test_room_usage_and_capacity() -> None:
    cache = manager(4, (None, 10), (8, 4))
    assert cache.tokens_capacity == 40
    assert cache.fits(40)
    assert not cache.fits(41)
    assert cache.usage == 0.0
    cache.extend("a", 0, 9)
    assert cache.usage == 0.75  # positions 2 … 8 lie on 3 of the 4 sliding pages
    assert cache.has_room(4)
    assert not cache.has_room(5)  # the sliding group has one page left, the full one seven
    cache.release("a")
    cache.extend("a", 0, 17)
    assert cache.usage == 0.75
    cache.extend("b", 0, 4)
    assert cache.usage == 1.0
    assert not cache.has_room(1)
    assert manager(4, (8, 4), (4, 3)).tokens_capacity == 12


def test_a_window_is_held_at_128k() -> None:
    cache = manager(16, (None, 8192), (128, 9))
    for start in range(0, 131072 - 8192, 8000):
        assert cache.extend("a", start, 8000) is not None
    for position in range(start + 8000, 131072):
        assert cache.extend("a", position, 1) is not None
    assert used(cache)[0] == 8192
    assert used(cache)[1] <= 9


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (CacheSpec(16, ()), "needs a group"),
        (CacheSpec(0, (GroupSpec("g", (0,), None, 4),)), "page size"),
        (CacheSpec(16, (GroupSpec("g", (0,), 0, 4),)), "window"),
        (CacheSpec(16, (GroupSpec("g", (0,), None, 0),)), "at least one page"),
    ],
)
def test_absurd_specs_are_refused(spec: CacheSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CacheManager(spec)
