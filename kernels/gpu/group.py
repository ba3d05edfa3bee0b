"""Pairs grouped by key without a general sort; stable, the same bits every time. Twin: ../reference/permute.py.

Few pairs, one launch: a pair's place is the number of pairs before it, counted by looking at all of them. Many, two
launches: stretches of neighbouring keys are counted first, then every stretch knows where its pairs go.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

MINE = 16  # pairs that a program places, of few
FEW = 4096  # pairs; twice as many would be compared in four times the time, which is then that of a second launch
STRETCHES = 128  # most programs of many pairs: about one a multiprocessor
BLOCK = 128  # pairs that such a program places at a time


def group(keys_N: torch.Tensor, groups: int, rows: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """See `reference.permute.group`: order int64 (N,) or (rows,), counts_g int64; the key `groups` comes last.

    Keys outside of 0 … groups count as `groups`: nothing is ever written elsewhere.
    """
    count = len(keys_N)
    keys_N = keys_N.contiguous()
    order_R = torch.empty(count if rows is None else min(rows, count), dtype=torch.int64, device=keys_N.device)
    counts_g = torch.empty(groups, dtype=torch.int64, device=keys_N.device)
    if not count:
        return order_R, counts_g.zero_()
    if count <= FEW:
        warps = 4 if count <= 512 else 8
        programs = triton.cdiv(count, MINE) + triton.cdiv(groups, MINE)
        sizes = {"OTHERS": 128 * warps, "MINE": MINE, "num_warps": warps}
        _rank[(programs,)](keys_N, order_R, counts_g, count, groups, len(order_R), **sizes)
        return order_R, counts_g
    steps = triton.cdiv(triton.cdiv(count, BLOCK), STRETCHES)
    stretches = triton.cdiv(count, BLOCK * steps)
    width = max(32, triton.next_power_of_2(groups + 1))
    tally_SG = torch.empty((stretches, width), dtype=torch.int32, device=keys_N.device)
    _count[(stretches,)](keys_N, tally_SG, count, groups, steps * BLOCK, BLOCK=1024, WIDTH=width, num_warps=4)
    _place[(stretches,)](
        keys_N,
        tally_SG,
        order_R,
        counts_g,
        count,
        groups,
        steps,
        stretches,
        len(order_R),
        BLOCK=BLOCK,
        WIDTH=width,
        TOGETHER=max(1, 8192 // width),
        num_warps=4,
    )
    return order_R, counts_g


@triton.jit
def _load(keys, at, count, groups):
    """Keys as int32; behind the last pair as if it were not here, which puts nobody before a pair that is."""
    key = tl.load(keys + at, mask=at < count, other=-1)
    return tl.where((key >= 0) & (key < groups), key, groups).to(tl.int32)


@triton.jit(do_not_specialize=["count", "groups", "rows"])
def _rank(keys, order, counts, count, groups, rows, OTHERS: tl.constexpr, MINE: tl.constexpr):
    """A program places MINE pairs, or counts MINE groups."""
    sorters = tl.cdiv(count, MINE)
    program = tl.program_id(0)
    other_J = tl.arange(0, OTHERS)
    total_I = tl.zeros((MINE,), dtype=tl.int32)
    if program < sorters:
        mine_I = program * MINE + tl.arange(0, MINE)
        rank_I = _load(keys, mine_I, count, groups) * count + mine_I  # one number: by key, then as they came
        for first in range(0, count, OTHERS):
            at_J = first + other_J
            rank_J = _load(keys, at_J, count, groups) * count + at_J
            total_I += tl.sum((rank_J[:, None] < rank_I[None, :]).to(tl.int32), 0)
        tl.store(order + total_I, mine_I.to(tl.int64), mask=(mine_I < count) & (total_I < rows))
    else:
        group_I = (program - sorters) * MINE + tl.arange(0, MINE)
        for first in range(0, count, OTHERS):
            key_J = _load(keys, first + other_J, count, groups)
            total_I += tl.sum((key_J[:, None] == group_I[None, :]).to(tl.int32), 0)
        tl.store(counts + group_I, total_I.to(tl.int64), mask=group_I < groups)


@triton.jit(do_not_specialize=["count", "groups", "length"])
def _count(keys, tally, count, groups, length, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """tally[stretch, g]: how many of the stretch's `length` keys are g."""
    stretch = tl.program_id(0)
    end = tl.minimum(count, (stretch + 1) * length)
    total_G = tl.zeros((WIDTH,), dtype=tl.int32)
    for first in range(stretch * length, end, BLOCK):
        at_I = first + tl.arange(0, BLOCK)
        total_G += tl.histogram(_load(keys, at_I, end, groups), WIDTH, mask=at_I < end)
    tl.store(tally + stretch * WIDTH + tl.arange(0, WIDTH), total_G)


@triton.jit(do_not_specialize=["count", "groups", "steps", "stretches", "rows"])
def _place(
    keys,
    tally,
    order,
    counts,
    count,
    groups,
    steps,
    stretches,
    rows,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """order[place of pair i] = i; the first stretch also writes the counts."""
    stretch = tl.program_id(0)
    group_G = tl.arange(0, WIDTH)
    total_G = tl.zeros((WIDTH,), dtype=tl.int32)
    before_G = tl.zeros((WIDTH,), dtype=tl.int32)
    for first in range(0, stretches, TOGETHER):
        other_S = first + tl.arange(0, TOGETHER)
        real_SG = (other_S < stretches)[:, None] & (group_G <= groups)[None, :]
        tally_SG = tl.load(tally + other_S[:, None] * WIDTH + group_G[None, :], mask=real_SG, other=0)
        total_G += tl.sum(tally_SG, 0)
        before_G += tl.sum(tl.where((other_S < stretch)[:, None], tally_SG, 0), 0)
    if stretch == 0:
        tl.store(counts + group_G, total_G.to(tl.int64), mask=group_G < groups)
    next_G = tl.cumsum(total_G, 0) - total_G + before_G
    for step in range(steps):
        at_I = (stretch * steps + step) * BLOCK + tl.arange(0, BLOCK)
        key_I = _load(keys, at_I, count, groups)
        equal_JI = (key_I[:, None] == key_I[None, :]) & (at_I[:, None] < at_I[None, :])
        place_I = tl.gather(next_G, key_I, 0) + tl.sum(equal_JI.to(tl.int32), 0)
        tl.store(order + place_I, at_I.to(tl.int64), mask=(at_I < count) & (place_I < rows))
        next_G += tl.histogram(key_I, WIDTH)
