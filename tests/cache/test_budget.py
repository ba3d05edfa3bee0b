from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yardmaster.cache.budget import most_pages, split_budget


def by_trying(num_tokens: int, window: int | None, size: int) -> int:
    """The most pages that positions seen at once touch."""
    if window is None:
        return len({p // size for p in range(num_tokens)})
    seen = ({p // size for p in range(max(0, t - window + 1), t + 1)} for t in range(num_tokens))
    return max((len(pages) for pages in seen), default=0)


@given(st.integers(0, 80), st.one_of(st.none(), st.integers(1, 30)), st.integers(1, 9))
def test_most_pages(num_tokens: int, window: int | None, size: int) -> None:
    exact = by_trying(num_tokens, window, size)
    bound = most_pages(num_tokens, window, size)
    assert exact <= bound <= exact + 1
    if window is None or num_tokens >= window + size:
        assert bound == exact  # a window that has slid through all of a page's offsets


@given(
    total=st.integers(0, 5000),
    groups=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([None, 2, 7, 16])), min_size=1, max_size=3),
    seqs=st.integers(1, 6),
    length=st.integers(1, 100),
    size=st.integers(1, 8),
)
def test_split(total: int, groups: list[tuple[int, int | None]], seqs: int, length: int, size: int) -> None:
    sizes, windows = [g[0] for g in groups], [g[1] for g in groups]

    def cost(pages: list[int]) -> int:
        return sum(n * b for n, b in zip(pages, sizes, strict=True))

    def split(length: int) -> list[int]:
        return split_budget(total, sizes, windows, max_num_seqs=seqs, max_model_len=length, page_size=size)

    least = [most_pages(length, window, size) for window in windows]
    if cost(least) > total:
        with pytest.raises(ValueError, match="--max-model-len") as refusal:
            split(length)
        found = re.search(r"; (\d+) tokens fit", str(refusal.value))
        assert found is not None
        fits = int(found[1])
        assert cost([most_pages(fits + 1, window, size) for window in windows]) > total
        if fits:
            split(fits)
        return
    pages = split(length)
    assert cost(pages) <= total
    most = [n * seqs for n in least]
    assert all(low <= n <= high for low, n, high in zip(least, pages, most, strict=True))
    # Whoever is above its minimum has no more than any other that is below its maximum, and nothing is left over.
    for i, n in enumerate(pages):
        for j, m in enumerate(pages):
            if n > least[i] and m < most[j]:
                assert n <= m
    if pages != most:
        level = min(n for n, high in zip(pages, most, strict=True) if n < high) + 1
        raised = [max(n, min(level, high)) for n, high in zip(pages, most, strict=True)]
        assert cost(raised) > total


def test_gpt_oss_in_a_large_and_in_a_small_budget() -> None:
    page = 12 * 16 * 2048  # twelve layers of gpt-oss-20b in bfloat16
    kind = {"page_bytes": [page, page], "windows": [None, 128], "max_num_seqs": 256, "page_size": 16}
    full, sliding = split_budget(40 << 30, max_model_len=131072, **kind)  # type: ignore[arg-type]
    assert sliding == 256 * 9
    assert full == (40 << 30) // page - sliding
    full, sliding = split_budget(1 << 30, max_model_len=4096, **kind)  # type: ignore[arg-type]
    assert full == sliding == (1 << 30) // (2 * page)


def test_refusal_names_numbers_and_flags() -> None:
    with pytest.raises(ValueError, match="--kv-cache-memory-bytes") as refusal:
        split_budget(1 << 30, [1 << 20], [None], max_num_seqs=4, max_model_len=32768, page_size=16)
    text = str(refusal.value)
    assert "1.00 GiB" in text
    assert "2.00 GiB" in text
    assert "lower --max-model-len to 16384" in text
    assert "--gpu-memory-utilization" in text


@pytest.mark.parametrize("total", [0, -5])
def test_no_budget_at_all(total: int) -> None:
    with pytest.raises(ValueError, match="0 tokens fit"):
        split_budget(total, [100], [None], max_num_seqs=1, max_model_len=1, page_size=16)
