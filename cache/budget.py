"""How many pages each cache group gets from a budget of bytes. Arithmetic alone: the start-up ledger asks it before

anything is allocated, the planner without any machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence


def most_pages(num_tokens: int, window: int | None, page_size: int) -> int:
    """The most pages that one request of `num_tokens` tokens ever holds in a group.

    Full attention: all of them. A window touches `window` neighbouring positions at most, which lie on one page more
    than they fill when they start in the middle of one.
    """
    pages = -(-num_tokens // page_size)
    return pages if window is None else min(pages, -(-(window - 1) // page_size) + 1)


def split_budget(
    bytes_total: int,
    page_bytes: Sequence[int],
    windows: Sequence[int | None],
    *,
    max_num_seqs: int,
    max_model_len: int,
    page_size: int,
) -> list[int]:
    """Pages for each group, given the bytes of one page and the window (None: full attention) of each.

    The rule: every group gets the same number of pages, the largest that fits, but none fewer than one request of
    `max_model_len` needs and none more than `max_num_seqs` such requests can hold. Equal counts starve nobody: a
    request never holds more pages in a sliding group than in a full one, so a sliding page beyond the full group's
    count could never be used. In a large budget the sliding groups reach their upper bound early, and the full ones
    take all that remains.

    Raises ValueError when one request of `max_model_len` does not fit, with the length that would and the flags.
    """
    least = [most_pages(max_model_len, window, page_size) for window in windows]
    need = _bytes(least, page_bytes)
    if need > bytes_total:
        fits = _largest(
            max_model_len, bytes_total, lambda n: _bytes([most_pages(n, w, page_size) for w in windows], page_bytes)
        )
        lower = f"lower --max-model-len to {fits}" if fits else "lower --max-model-len"
        raise ValueError(
            f"the key-value cache has {_show(bytes_total)}, but one request of --max-model-len {max_model_len} needs "
            f"{_show(need)}; {fits} tokens fit: {lower}, or raise --gpu-memory-utilization or --kv-cache-memory-bytes"
        )

    def pages(level: int) -> list[int]:
        return [min(max(level, low), low * max_num_seqs) for low in least]

    level = _largest(max(least) * max_num_seqs, bytes_total, lambda level: _bytes(pages(level), page_bytes))
    return pages(level)


def _largest(limit: int, budget: int, cost: Callable[[int], int]) -> int:
    """The largest n in 0 … limit whose cost, which never falls with n, is within the budget; 0 when none is."""
    return max(0, bisect_right(range(limit + 1), budget, key=cost) - 1)


def _bytes(pages: Sequence[int], page_bytes: Sequence[int]) -> int:
    return sum(count * size for count, size in zip(pages, page_bytes, strict=True))


def _show(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB" if abs(size) >= 1 << 30 else f"{size / (1 << 20):.2f} MiB"
