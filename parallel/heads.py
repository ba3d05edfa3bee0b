"""Which attention heads a tensor-parallel rank holds. No torch."""

from __future__ import annotations

from .layout import split


def split_heads(num_heads: int, num_kv_heads: int, tp: int, index: int) -> tuple[range, range]:
    """Query heads and key-value heads of rank `index` of `tp`; each query head sits with the one it reads.

    Up to `num_kv_heads` ranks share the key-value heads out, evenly or not; beyond that each key-value head is held
    by `tp / num_kv_heads` ranks, which share its query heads out. Raises ValueError when a rank would have none.
    """
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(f"{num_heads} attention heads do not divide over {num_kv_heads} key-value heads")
    each = num_heads // num_kv_heads  # query heads that read one key-value head
    if tp <= num_kv_heads:
        kv = split(num_kv_heads, tp, index)
        return range(kv.start * each, kv.stop * each), kv
    if tp % num_kv_heads or tp > num_heads:
        raise ValueError(
            f"--tensor-parallel-size {tp} does not fit {num_heads} attention heads over {num_kv_heads} key-value "
            f"heads: choose at most {num_kv_heads}, or a multiple of it up to {num_heads}"
        )
    copies = tp // num_kv_heads
    head, share = divmod(index, copies)
    q = split(each, copies, share)
    return range(head * each + q.start, head * each + q.stop), range(head, head + 1)
