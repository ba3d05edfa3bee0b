"""Paged decode attention in one launch: one new token a request over its keys in the cache. Twin:
../reference/attention.py.

All keys of all requests and key-value heads are one line, cut into equal shares, one a program: a long request among
short ones is spread over many programs, and a short one costs what it has. A request and a key-value head are a *unit*;
a share is the end of one, some whole ones and the start of another. A whole unit is finished where it was computed. Of
a unit in parts each program leaves its part, and the last to arrive merges them by log-sum-exp, always in the same
order; the sink is one more part.

Inside a program each warp has keys of its own, or, while there are units enough, a key-value head of its own: a unit
then has as many of them as warps. That is the first dimension of products of three: nothing passes between warps until
a part is complete. The query heads of a key-value head are the rows of a product. (decode_plan.py, decode_parts.py)
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from .arrivals import arrivals
from .decode_parts import finish, leave, merge, places
from .decode_plan import Plan, choose
from .experts_run import processors


def decode_attention(
    q_BHd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    pages_BP: torch.Tensor,
    first_B: torch.Tensor,
    positions_B: torch.Tensor,
    sinks_H: torch.Tensor | None,
    window: int | None,
    scale: float,
    plan: Plan | None = None,
) -> torch.Tensor:
    """As the twin. A row whose position is negative is padding: nothing is read for it and its result is 0.

    Pages that lie after a position or outside its window are not even looked up. The same call gives the same bits; in
    another batch a row may be cut elsewhere, and rounded so. The first call must not be captured (arrivals.py).

    Raises ValueError for caches that are not contiguous or whose pages are no power of two long, and for a plan whose
    units have no whole number of the heads.
    """
    batch, heads, width = q_BHd.shape
    page_size, kv_heads = k_cache.shape[1:3]
    if page_size & (page_size - 1) or not (k_cache.is_contiguous() and v_cache.is_contiguous()):
        raise ValueError(f"caches of {tuple(k_cache.shape)}: must be contiguous, with a power of two of slots a page")
    out_BHd = torch.empty((batch, heads, width), dtype=q_BHd.dtype, device=q_BHd.device)
    if not batch or not heads:
        return out_BHd
    if q_BHd.stride(2) != 1:
        q_BHd = q_BHd.contiguous()
    if pages_BP.stride(1) != 1:
        pages_BP = pages_BP.contiguous()
    columns, group = pages_BP.shape[1], heads // kv_heads
    multiprocessors = processors(q_BHd.device)
    plan = plan or choose(batch, kv_heads, group, width, k_cache.element_size(), window, multiprocessors)
    if kv_heads % plan.heads:
        raise ValueError(f"{kv_heads} key-value heads, and a plan for units of {plan.heads} heads")
    keys = columns * page_size if window is None else min(columns * page_size, window)
    programs = plan.programs(batch * kv_heads // plan.heads, keys, multiprocessors)
    parts = torch.empty((2 * programs, plan.heads * group, width), dtype=torch.float32, device=q_BHd.device)
    sums = torch.empty((2 * programs, plan.heads * group, 2), dtype=torch.float32, device=q_BHd.device)
    _decode_attention[(programs,)](
        q_BHd,
        k_cache,
        v_cache,
        pages_BP,
        first_B.contiguous(),
        positions_B.contiguous(),
        sinks_H,
        out_BHd,
        parts,
        sums,
        arrivals(q_BHd.device, batch * kv_heads),
        batch,
        columns * page_size,
        1 << 30 if window is None else window,
        scale * math.log2(math.e),
        q_BHd.stride(0),
        q_BHd.stride(1),
        pages_BP.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        WIDTH=width,
        PAGE_BITS=page_size.bit_length() - 1,
        ROWS=_rows(batch),
        GROUP_BLOCK=max(16, triton.next_power_of_2(group)),
        PARTS_GROUP=triton.next_power_of_2(group),
        WIDTH_BLOCK=max(16, triton.next_power_of_2(width)),
        WARPS=plan.warps,
        HEADS=plan.heads,
        KEYS=plan.keys,
        GRANULE=plan.granule,
        LEAST=plan.least,
        STAGES=plan.stages,
        WIDE=not isinstance(_decode_attention, triton.JITFunction),
        num_warps=plan.warps,
        num_stages=plan.stages,
        maxnreg=plan.registers,
        enable_fp_fusion=True,  # Triton's own default has changed
    )
    return out_BHd


def _rows(batch: int) -> int:
    """Few different ones: each is compiled."""
    rows = 32
    while rows < batch:
        rows *= 4
    return rows


@triton.jit(
    do_not_specialize=["batch", "reach", "window", "stride_pages"],
    do_not_specialize_on_alignment=["first", "positions"],
)
def _decode_attention(
    q,  # (batch, heads, width), strided
    k_cache,  # (pages, PAGE_SIZE, KV_HEADS, WIDTH)
    v_cache,
    pages,  # (batch, columns), strided
    first,  # (batch,): position of column 0's first key
    positions,  # (batch,)
    sinks,  # (heads,) or None
    out,  # (batch, heads, width)
    parts,  # float32 (2 * programs, HEADS * GROUP, WIDTH): a program's first unit and its last, where they are in parts
    sums,  # float32 (2 * programs, HEADS * GROUP, 2): the largest score of each and the sum of weights
    counters,  # int32, one a unit, all zero
    batch,
    reach,  # keys that a row of pages can name
    window,
    scale,  # of scores, for powers of two
    stride_b,
    stride_h,
    stride_pages,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE_BITS: tl.constexpr,
    ROWS: tl.constexpr,  # at least `batch`
    GROUP_BLOCK: tl.constexpr,
    PARTS_GROUP: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr,
    WARPS: tl.constexpr,
    HEADS: tl.constexpr,  # of keys and values in a unit; as many warps share out a unit's keys as there are of each
    KEYS: tl.constexpr,  # of a warp in one step
    GRANULE: tl.constexpr,  # keys
    LEAST: tl.constexpr,  # granules of a share
    STAGES: tl.constexpr,
    WIDE: tl.constexpr,  # products in float32: the interpreter's bfloat16 products are wrong
):
    UNITS: tl.constexpr = KV_HEADS // HEADS  # of a request
    row_R = tl.arange(0, ROWS)
    low_R, high_R = _seen(positions, first, row_R, row_R < batch, reach, window)
    granules_R = tl.where(row_R < batch, _granules(low_R, high_R, GRANULE) * UNITS, 0)
    total = tl.sum(granules_R, 0)
    end_R = tl.cumsum(granules_R, 0)
    share = tl.maximum(tl.cdiv(total, tl.num_programs(0)), LEAST)
    begin = tl.program_id(0) * share
    stop = tl.minimum(begin + share, total)
    if begin < stop:
        one, start = _unit(granules_R, end_R, begin, positions, first, reach, window, UNITS, GRANULE)
        last, _ = _unit(granules_R, end_R, stop - 1, positions, first, reach, window, UNITS, GRANULE)
        for unit in tl.range(one, last + 1, disable_licm=True):
            row = unit // UNITS
            group = unit % UNITS
            low, high = _seen(positions, first, row, True, reach, window)
            granules = _granules(low, high, GRANULE)
            at = tl.maximum(start, begin)
            until = tl.minimum(start + granules, stop)
            top_R, sum_R, acc_Rd = _part(
                q + row * stride_b + group * (HEADS * GROUP) * stride_h,
                k_cache + group * (HEADS * WIDTH), v_cache + group * (HEADS * WIDTH), pages + row * stride_pages,
                low + (at - start) * GRANULE, tl.minimum(low + (until - start) * GRANULE, high), scale, stride_h,
                KV_HEADS, GROUP, WIDTH, PAGE_BITS, GROUP_BLOCK, WIDTH_BLOCK, WARPS, HEADS, KEYS, STAGES, WIDE,
            )  # fmt: skip
            if until - at == granules:
                finish(top_R, sum_R, acc_Rd, sinks, out, unit, group, GROUP, WIDTH, HEADS, GROUP_BLOCK, WIDTH_BLOCK)
            else:
                # A program has at most two parts: the end of its first unit, the start of its last one.
                part = 2 * tl.program_id(0) + (start > begin).to(tl.int32)
                leave(top_R, sum_R, acc_Rd, parts, sums, part, GROUP, WIDTH, HEADS, GROUP_BLOCK, WIDTH_BLOCK)
                tl.debug_barrier()  # all threads' stores before the one thread's arrival
                arrived = tl.atomic_add(counters + unit, 1, sem="acq_rel")
                if arrived == (start + granules - 1) // share - start // share:
                    tl.store(counters + unit, 0)
                    merge(
                        parts, sums, sinks, out, unit, group, start, granules, share,
                        GROUP, WIDTH, HEADS, PARTS_GROUP, WIDTH_BLOCK,
                    )  # fmt: skip
            start += granules


@triton.jit
def _unit(
    granules_R, end_R, granule, positions, first, reach, window, UNITS: tl.constexpr, GRANULE: tl.constexpr
):  # fmt: skip
    """Which unit a granule of the line belongs to, and the unit's first granule."""
    # Rows that end before it, and how many they are, summed in one go.
    both = tl.sum(tl.where(end_R <= granule, (granules_R.to(tl.int64) << 32) + 1, 0), 0)
    row, start = both.to(tl.int32), (both >> 32).to(tl.int32)
    low, high = _seen(positions, first, row, True, reach, window)
    granules = _granules(low, high, GRANULE)
    group = (granule - start) // granules
    return row * UNITS + group, start + group * granules


@triton.jit
def _granules(low, high, GRANULE: tl.constexpr):
    """A unit that sees no key has one too: its result is to be written."""
    return tl.maximum(tl.cdiv(high - low, GRANULE), 1)


@triton.jit
def _seen(positions, first, row, there, reach, window):
    """Keys that a row sees, counted from the first of its column 0: from `low` on, before `high`."""
    position = tl.load(positions + row, mask=there, other=-1)
    origin = tl.load(first + row, mask=there, other=0)
    low = tl.maximum(position - window + 1 - origin, 0)
    high = tl.where(position < 0, 0, tl.minimum(position + 1 - origin, reach))
    return tl.minimum(low, reach).to(tl.int32), tl.maximum(high, tl.minimum(low, reach)).to(tl.int32)


@triton.jit
def _part(
    q, k_cache, v_cache, pages, low, high, scale, stride_h,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PAGE_BITS: tl.constexpr,
    GROUP_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr, WARPS: tl.constexpr, HEADS: tl.constexpr,
    KEYS: tl.constexpr, STAGES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Keys low … high - 1 of one unit: of each query head the largest score, the sum of weights, that of values."""
    PAGE: tl.constexpr = KV_HEADS * WIDTH << PAGE_BITS  # values of a page
    SPLITS: tl.constexpr = WARPS // HEADS
    STEP: tl.constexpr = SPLITS * KEYS
    ROWS: tl.constexpr = HEADS * GROUP_BLOCK
    head_R, real_R = places(GROUP, HEADS, GROUP_BLOCK)
    at_d = tl.arange(0, WIDTH_BLOCK)
    at_Rd = head_R[:, None] * stride_h + at_d[None, :]
    q_Rd = tl.load(q + at_Rd, mask=real_R[:, None] & (at_d < WIDTH)[None, :], other=0.0)
    if WIDE:
        q_Rd = q_Rd.to(tl.float32)
    if SPLITS == 1:
        q_WGd = tl.reshape(q_Rd, (WARPS, GROUP_BLOCK, WIDTH_BLOCK))
    else:
        q_SRd = tl.broadcast_to(q_Rd[None, :, :], (SPLITS, ROWS, WIDTH_BLOCK))
        q_WGd = tl.reshape(q_SRd, (WARPS, GROUP_BLOCK, WIDTH_BLOCK))
    warp_W = tl.arange(0, WARPS)
    at_SK = tl.arange(0, SPLITS)[:, None] * KEYS + tl.arange(0, KEYS)[None, :]
    top_WG = tl.full((WARPS, GROUP_BLOCK), float("-inf"), tl.float32)
    sum_WG = tl.zeros((WARPS, GROUP_BLOCK), tl.float32)
    acc_WGd = tl.zeros((WARPS, GROUP_BLOCK, WIDTH_BLOCK), tl.float32)
    page_SK = tl.load(pages + ((low + at_SK) >> PAGE_BITS), mask=low + at_SK < high, other=0)
    for base in tl.range(low, high, STEP, num_stages=STAGES):
        key_SK = base + at_SK
        slot_SK = page_SK.to(tl.int64) * PAGE + (key_SK & ((1 << PAGE_BITS) - 1)) * (KV_HEADS * WIDTH)
        # The next step's pages are looked up a step ahead.
        next_SK = key_SK + STEP
        page_SK = tl.load(pages + (next_SK >> PAGE_BITS), mask=next_SK < high, other=0)
        seen_WK = tl.broadcast_to(key_SK < high, (WARPS, KEYS))
        at_WK = tl.broadcast_to(slot_SK, (WARPS, KEYS))
        if SPLITS == 1:
            at_WK += warp_W[:, None] * WIDTH
        at_WKd = at_WK[:, :, None] + at_d[None, None, :]
        there_WKd = seen_WK[:, :, None] & (at_d < WIDTH)[None, None, :]
        k_WKd = _wide(tl.load(k_cache + at_WKd, mask=there_WKd, other=0.0), q_WGd.dtype)
        v_WKd = _wide(tl.load(v_cache + at_WKd, mask=there_WKd, other=0.0), q_WGd.dtype)
        score_WGK = tl.dot(q_WGd, tl.permute(k_WKd, (0, 2, 1)), input_precision="ieee") * scale
        score_WGK = tl.where(seen_WK[:, None, :], score_WGK, float("-inf"))
        new_WG = tl.maximum(top_WG, tl.max(score_WGK, 2))
        base_WG = tl.where(new_WG == float("-inf"), 0.0, new_WG)  # a warp that has not seen any key yet
        weight_WGK = tl.exp2(score_WGK - base_WG[:, :, None])
        fade_WG = tl.exp2(top_WG - base_WG)
        sum_WG = sum_WG * fade_WG + tl.sum(weight_WGK, 2)
        acc_WGd = acc_WGd * fade_WG[:, :, None]
        acc_WGd = tl.dot(weight_WGK.to(q_WGd.dtype), v_WKd, acc_WGd, input_precision="ieee")
        top_WG = new_WG
    top_SR = tl.reshape(top_WG, (SPLITS, ROWS))
    sum_SR = tl.reshape(sum_WG, (SPLITS, ROWS))
    acc_SRd = tl.reshape(acc_WGd, (SPLITS, ROWS, WIDTH_BLOCK))
    top_R = tl.max(top_SR, 0)
    if SPLITS > 1:
        fade_SR = tl.exp2(top_SR - tl.where(top_R == float("-inf"), 0.0, top_R)[None, :])
        sum_SR = sum_SR * fade_SR
        acc_SRd = acc_SRd * fade_SR[:, :, None]
    return top_R, tl.sum(sum_SR, 0), _sum(acc_SRd, SPLITS, ROWS, WIDTH_BLOCK)


@triton.jit
def _sum(x_SRd, SPLITS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Over up to four splits: one exchange between warps, where a sum of Triton's takes several."""
    x_RdS = tl.permute(x_SRd, (1, 2, 0))
    if SPLITS == 4:
        a_RdS, b_RdS = tl.split(tl.permute(tl.reshape(x_RdS, (ROWS, WIDTH, 2, 2)), (0, 1, 3, 2)))
        x_RdS = a_RdS + b_RdS
    if SPLITS == 1:
        x_Rd = tl.reshape(x_RdS, (ROWS, WIDTH))
    else:
        a_Rd, b_Rd = tl.split(x_RdS)
        x_Rd = a_Rd + b_Rd
    return x_Rd


@triton.jit
def _wide(x, DTYPE: tl.constexpr):
    """From the cache's dtype to that of the queries."""
    if x.dtype == DTYPE:
        return x
    # By way of float16 and float32: the direct conversion takes the slowest unit of a multiprocessor, once a value.
    return x.to(tl.float16).to(tl.float32).to(DTYPE) if x.dtype.primitive_bitwidth == 8 else x.to(DTYPE)
