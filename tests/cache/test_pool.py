from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yardmaster.cache.pool import BlockPool


@given(st.integers(1, 20), st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=60))
def test_pages_are_held_once_or_free(num_pages: int, steps: list[tuple[bool, int]]) -> None:
    pool = BlockPool(num_pages)
    held: list[int] = []
    for taking, n in steps:
        if taking:
            pages = pool.take(n)
            assert (pages is None) == (n > num_pages - len(held))
            if pages is not None:
                assert len(pages) == n
                held += pages
        else:
            pool.give_back(held[:n])
            held = held[n:]
        assert len(set(held)) == len(held) == pool.used
        assert pool.free == num_pages - len(held)
        assert all(0 <= page < num_pages for page in held)


def test_all_or_nothing() -> None:
    pool = BlockPool(3)
    assert pool.take(4) is None
    assert pool.free == 3
    assert sorted(pool.take(3) or []) == [0, 1, 2]
    assert pool.take(1) is None
    assert pool.take(0) == []


@pytest.mark.parametrize("pages", [[0], [1, 1], [7], [-1]])
def test_a_page_that_is_not_held_cannot_come_back(pages: list[int]) -> None:
    pool = BlockPool(7)
    taken = pool.take(7) or []
    pool.give_back([0])
    assert len(taken) == 7
    with pytest.raises(ValueError, match="not held"):
        pool.give_back(pages)


@pytest.mark.parametrize("num_pages", [0, -1])
def test_an_empty_pool_is_refused(num_pages: int) -> None:
    with pytest.raises(ValueError, match="at least one page"):
        BlockPool(num_pages)


def test_a_negative_count_is_refused() -> None:
    pool = BlockPool(5)
    with pytest.raises(ValueError, match="cannot take"):
        pool.take(-1)
    assert pool.free == 5
