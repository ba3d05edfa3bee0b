"""Pairs grouped by key without a general sort: counts by blocks, then every pair straight to its place.

Stable and deterministic. Bytes: each key is read twice and each place written once, and every block reads the counts
of all: 131,072 keys of 128 groups are 64 blocks of 33 KB.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ELEMENTS = 1 << 14  # keys x groups that a program looks at together
BLOCKS = 64  # most programs, each with a run of neighbouring keys


def group(keys_N: torch.Tensor, groups: int, rows: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.permute.group`: order int64 (N,) or (rows,), counts_g int64; the key `groups` comes last."""
    count = len(keys_N)
    order_N = torch.empty(count, dtype=torch.int64, device=keys_N.device)
    counts_g = torch.zeros(groups, dtype=torch.int64, device=keys_N.device)
    if not count:
        return order_N[:rows], counts_g
    groups_block = triton.next_power_of_2(groups + 1)
    keys_block = max(16, ELEMENTS // groups_block)
    steps = triton.next_power_of_2(triton.cdiv(triton.cdiv(count, keys_block), BLOCKS))
    blocks = triton.cdiv(count, keys_block * steps)
    tally = torch.empty((blocks, groups_block), dtype=torch.int32, device=keys_N.device)
    sizes = {"KEYS_BLOCK": keys_block, "GROUPS_BLOCK": groups_block, "num_warps": 8}
    _count[(blocks,)](keys_N, tally, count, steps, groups, **sizes)
    _place[(blocks,)](keys_N, tally, order_N, counts_g, count, steps, groups, blocks, **sizes)
    return order_N if rows is None else order_N[:rows], counts_g


@triton.jit(do_not_specialize=["count", "steps"])
def _count(keys, tally, count, steps, groups, KEYS_BLOCK: tl.constexpr, GROUPS_BLOCK: tl.constexpr):
    """tally[block, g]: how many of the block's keys are g."""
    block = tl.program_id(0)
    group_G = tl.arange(0, GROUPS_BLOCK)
    total_G = tl.zeros((GROUPS_BLOCK,), dtype=tl.int32)
    for step in range(steps):
        at_K = (block * steps + step) * KEYS_BLOCK + tl.arange(0, KEYS_BLOCK)
        key_K = tl.load(keys + at_K, mask=at_K < count, other=-1).to(tl.int32)
        total_G += tl.sum((key_K[:, None] == group_G[None, :]).to(tl.int32), 0)
    tl.store(tally + block * GROUPS_BLOCK + group_G, total_G)


@triton.jit(do_not_specialize=["count", "steps", "blocks"])
def _place(
    keys, tally, order, counts, count, steps, groups, blocks, KEYS_BLOCK: tl.constexpr, GROUPS_BLOCK: tl.constexpr
):
    """order[place of pair i] = i; the first block also writes the counts."""
    block = tl.program_id(0)
    group_G = tl.arange(0, GROUPS_BLOCK)
    before_G = tl.zeros((GROUPS_BLOCK,), dtype=tl.int32)
    total_G = tl.zeros((GROUPS_BLOCK,), dtype=tl.int32)
    for other in range(blocks):
        tally_G = tl.load(tally + other * GROUPS_BLOCK + group_G)
        total_G += tally_G
        before_G += tl.where(other < block, tally_G, 0)
    if block == 0:
        tl.store(counts + group_G, total_G.to(tl.int64), mask=group_G < groups)
    next_G = tl.cumsum(total_G, 0) - total_G + before_G
    for step in range(steps):
        at_K = (block * steps + step) * KEYS_BLOCK + tl.arange(0, KEYS_BLOCK)
        key_K = tl.load(keys + at_K, mask=at_K < count, other=-1).to(tl.int32)
        mine_KG = (key_K[:, None] == group_G[None, :]).to(tl.int32)
        place_KG = next_G[None, :] + tl.cumsum(mine_KG, 0) - 1
        place_K = tl.sum(mine_KG * place_KG, 1)
        tl.store(order + place_K, at_K.to(tl.int64), mask=at_K < count)
        next_G += tl.sum(mine_KG, 0)
