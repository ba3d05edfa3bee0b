"""One product of a mixture-of-experts layer: every pair of a token and an expert times that expert's weights.

    y[pair] = weights[key of pair] @ x[row of pair] (+ bias) (through the gated activation)

Weights are the left operand of the dot, tokens the right one, so that few tokens fit the narrow side of the matrix
instruction (8 columns) and weights that are expanded in registers go into it from there. A weight format is a function
that brings one tile [BLOCK_N, BLOCK_K] in bfloat16: weights_dense.py, weights_mxfp4.py, weights_fp8.py.

Two ways of finding work, both on the device. Few pairs: a program an output tile and an expert (or the first pair of
one), which looks at all keys and keeps a bit of each pair that is its own, without sorting. Many: pairs come grouped, a
program an output tile of BLOCK_M pairs of one expert, the tiles of the same weights next to each other, to meet in the
L2; large programs go on to further tiles (PERSISTENT).

A weight format plugs in as a function `tile(weights, [scales,] expert, rows, columns, …, WIDE)`, chosen by FORMAT in
`_tile`: it takes what its Matrices (experts_run.py) have as `weights` and `scales`, two pointers to all experts, and
knows their strides from `outs` and `inner`. What it gives back is the left operand of a dot: loads whose values reach
it through elementwise arithmetic (and joins that only name registers) are pipelined, STAGES deep.

Rows of a tile stand in pairs where a gate follows (GATED): of 16 rows the first 8 are gates and the others their ups.
So a gate and its up lie in one thread's registers, and weights need no other order in memory than they have.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .pairs import any_before, count_pairs, nth_pair, pairs_of
from .weights_dense import dense_tile
from .weights_fp8 import fp8_scales, fp8_tile
from .weights_mxfp4 import mxfp4_tile


@triton.jit(do_not_specialize=["pairs", "cells"])
def grouped_gemm(
    x,  # (rows, inner)
    weights,  # of all experts, in their format
    scales,  # of the format, or anything
    bias,  # (experts, outs)
    out,  # (pairs, outs), or (pairs, outs / 2) when gated
    partials,  # float32 (SPLIT, pairs, outs), when SPLIT > 1
    arrivals,  # int32, one an output tile; all zero before a product that splits …
    cells,  # … and that many, which a product that CLEARS sets to zero
    keys,  # int64 (pairs,): the expert of each, `experts` for none
    order,  # int64 (pairs,): pairs grouped by expert, unless FEW
    counts,  # int64 (experts,): pairs of each, unless FEW
    token,  # int64 (pairs,): the row of x of each pair, when HAS_TOKEN
    pairs,
    slots,  # pair p reads row p // slots of x, unless HAS_TOKEN
    experts,
    outs,
    inner,
    limit,
    alpha,
    shift,
    FORMAT: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_TOKEN: tl.constexpr,
    FEW: tl.constexpr,
    BY_EXPERT: tl.constexpr,  # when FEW: programs are numbered by expert, not by pair
    PERSISTENT: tl.constexpr,  # unless FEW: programs go on to a further tile
    CLEARS: tl.constexpr,
    WORDS: tl.constexpr,  # when FEW: 64 pairs each
    EXPERTS_BLOCK: tl.constexpr,  # at least `experts`
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    LAST_M: tl.constexpr,  # of an expert's last pairs, unless FEW; 0 as the others
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    STAGES: tl.constexpr,
    EVEN: tl.constexpr,  # the columns are whole steps
    WIDE: tl.constexpr,  # products in float32: the interpreter's bfloat16 products are wrong
):
    column_m = tl.arange(0, BLOCK_M)
    tiles_n = tl.cdiv(outs, BLOCK_N)
    if FEW:
        n = tl.program_id(0)
        slot = tl.program_id(1)
        part = tl.program_id(2)
        if CLEARS:
            for cell in range(slot * tiles_n + n, cells, tl.num_programs(1) * tiles_n):
                tl.store(arrivals + cell, 0)
        key = slot
        if not BY_EXPERT:
            key = tl.load(keys + slot).to(tl.int32)
        mine = pairs_of(keys, key, pairs, experts, WORDS)
        count = count_pairs(mine, WORDS, WIDE)
        if not BY_EXPERT:
            count = tl.where(any_before(mine, slot, WORDS), 0, count)  # the first pair of an expert leads
        if count > 0:
            for base in tl.range(0, count, BLOCK_M, disable_licm=True):
                pair_M = nth_pair(mine, base + column_m, WORDS, WIDE)
                arrival = arrivals + (slot * tiles_n + n) * tl.cdiv(pairs, BLOCK_M) + base // BLOCK_M
                _tile(
                    x, weights, scales, bias, out, partials, arrival, token, pairs, slots, outs,
                    inner, limit, alpha, shift, key, n, part, pair_M, base + column_m < count,
                    FORMAT, GATED, HAS_BIAS, HAS_TOKEN, BLOCK_N, BLOCK_M, BLOCK_K, SPLIT, STAGES, EVEN, WIDE,
                )  # fmt: skip
    else:
        expert_E = tl.arange(0, EXPERTS_BLOCK)
        count_E = tl.load(counts + expert_E, mask=expert_E < experts, other=0).to(tl.int32)
        end_E = tl.cumsum(tl.cdiv(count_E, BLOCK_M) * tiles_n, 0)
        total = tl.max(end_E, 0)
        if PERSISTENT:
            for work in range(tl.program_id(0), total, tl.num_programs(0)):
                _work(
                    x, weights, scales, bias, out, partials, arrivals, order, counts, token, pairs, slots, outs, inner,
                    limit, alpha, shift, count_E, end_E, work, tiles_n,
                    FORMAT, GATED, HAS_BIAS, HAS_TOKEN, BLOCK_N, BLOCK_M, LAST_M, BLOCK_K, SPLIT, STAGES, EVEN, WIDE,
                )  # fmt: skip
        elif tl.program_id(0) < total:
            _work(
                x, weights, scales, bias, out, partials, arrivals, order, counts, token, pairs, slots, outs, inner,
                limit, alpha, shift, count_E, end_E, tl.program_id(0), tiles_n,
                FORMAT, GATED, HAS_BIAS, HAS_TOKEN, BLOCK_N, BLOCK_M, LAST_M, BLOCK_K, SPLIT, STAGES, EVEN, WIDE,
            )  # fmt: skip


@triton.jit
def _work(
    x, weights, scales, bias, out, partials, arrivals, order, counts, token, pairs, slots, outs, inner, limit, alpha,
    shift, count_E, end_E, work, tiles_n,
    FORMAT: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_TOKEN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, LAST_M: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Tile number `work` of grouped pairs: `end_E` says behind which one each expert's tiles end."""
    before_E = end_E <= work
    one_E = (count_E.to(tl.int64) << 32) + 1  # an expert's pairs and the expert: summed in one go
    both = tl.sum(tl.where(before_E, one_E, 0), 0)
    key, first = both.to(tl.int32), (both >> 32).to(tl.int32)
    local = work - tl.max(tl.where(before_E, end_E, 0), 0)
    count = tl.load(counts + key).to(tl.int32)
    tiles = tl.cdiv(count, BLOCK_M)
    base = (local % tiles) * BLOCK_M
    # An expert's last tile seldom is full: where what is left fits, narrower products do for it.
    if LAST_M > 0 and count - base <= LAST_M:
        _run_of_pairs(
            x, weights, scales, bias, out, partials, arrivals, order, token, pairs, slots, outs, inner,
            limit, alpha, shift, key, local // tiles, base, count, first,
            FORMAT, GATED, HAS_BIAS, HAS_TOKEN, BLOCK_N, LAST_M if LAST_M > 0 else BLOCK_M, BLOCK_K, SPLIT,
            STAGES, EVEN, WIDE,
        )  # fmt: skip
    else:
        _run_of_pairs(
            x, weights, scales, bias, out, partials, arrivals, order, token, pairs, slots, outs, inner,
            limit, alpha, shift, key, local // tiles, base, count, first,
            FORMAT, GATED, HAS_BIAS, HAS_TOKEN, BLOCK_N, BLOCK_M, BLOCK_K, SPLIT, STAGES, EVEN, WIDE,
        )  # fmt: skip


@triton.jit
def _run_of_pairs(
    x, weights, scales, bias, out, partials, arrivals, order, token, pairs, slots, outs, inner, limit, alpha, shift,
    key, n, base, count, first,
    FORMAT: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_TOKEN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The tile of an expert's pairs from its `base`-th on; they stand in `order` from `first` on."""
    place_M = base + tl.arange(0, BLOCK_M)
    pair_M = tl.load(order + first + place_M, mask=place_M < count, other=0).to(tl.int32)
    _tile(
        x, weights, scales, bias, out, partials, arrivals, token, pairs, slots, outs,
        inner, limit, alpha, shift, key, n, 0, pair_M, place_M < count,
        FORMAT, GATED, HAS_BIAS, HAS_TOKEN, BLOCK_N, BLOCK_M, BLOCK_K, SPLIT, STAGES, EVEN, WIDE,
    )  # fmt: skip


@triton.jit
def _tile(
    x, weights, scales, bias, out, partials, arrival, token, pairs, slots, outs, inner, limit, alpha, shift,
    key, n, part, pair_M, valid_M,
    FORMAT: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_TOKEN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    STAGES: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One output tile: rows n * BLOCK_N … of expert `key`, for the pairs `pair_M`."""
    if HAS_TOKEN:
        row_M = tl.load(token + pair_M, mask=valid_M, other=0)
    else:
        row_M = (pair_M // slots).to(tl.int64)
    i_N = tl.arange(0, BLOCK_N)
    if GATED:
        out_N = n * BLOCK_N + 2 * (i_N // 16 * 8 + i_N % 8) + i_N // 8 % 2
    else:
        out_N = n * BLOCK_N + i_N
    expert = key.to(tl.int64)
    steps = tl.cdiv(tl.cdiv(inner, BLOCK_K), SPLIT)
    k_K = tl.arange(0, BLOCK_K)
    acc_NM = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    x_KM = x + row_M[None, :] * inner + k_K[:, None]
    for step in tl.range(part * steps, min((part + 1) * steps, tl.cdiv(inner, BLOCK_K)), num_stages=STAGES):
        at = step * BLOCK_K
        # Weights first: their loads need not wait until the pairs are found.
        if FORMAT == "mxfp4":
            w_NK = mxfp4_tile(weights, scales, expert, n, step, outs, inner, BLOCK_N, BLOCK_K, WIDE)
        elif FORMAT == "fp8":
            w_NK = fp8_tile(weights, expert, out_N, at + k_K, outs, inner, EVEN, WIDE)
        else:
            w_NK = dense_tile(weights, expert, out_N, at + k_K, outs, inner, EVEN, WIDE)
        mask_KM = valid_M[None, :]
        if not EVEN:
            mask_KM = mask_KM & (at + k_K[:, None] < inner)
        operand_KM = tl.load(x_KM + at, mask=mask_KM, other=0.0)
        if WIDE:
            operand_KM = operand_KM.to(tl.float32)
        if FORMAT == "fp8":
            scale_N = fp8_scales(scales, expert, out_N, at // 128, outs, inner, GATED)
            acc_NM += tl.dot(w_NK, operand_KM) * scale_N[:, None]
        else:
            acc_NM = tl.dot(w_NK, operand_KM, acc_NM)

    if SPLIT > 1:
        # Every part leaves its sum; the last to arrive adds them up, always in the same order.
        place_NM = pair_M.to(tl.int64)[None, :] * outs + out_N[:, None]
        mask_NM = (out_N[:, None] < outs) & valid_M[None, :]
        size = pairs.to(tl.int64) * outs
        tl.store(partials + part * size + place_NM, acc_NM, mask=mask_NM)
        tl.debug_barrier()  # all threads' stores before the one thread's arrival
        arrived = tl.atomic_add(arrival, 1, sem="acq_rel")
        if arrived == SPLIT - 1:
            acc_NM = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
            for one in range(SPLIT):
                acc_NM += tl.load(partials + one * size + place_NM, mask=mask_NM, other=0.0, cache_modifier=".cg")
            _finish(
                acc_NM, bias, out, expert, n, pair_M, valid_M, out_N, outs, limit, alpha, shift, GATED, HAS_BIAS,
                BLOCK_N, BLOCK_M,
            )  # fmt: skip
    else:
        _finish(
            acc_NM, bias, out, expert, n, pair_M, valid_M, out_N, outs, limit, alpha, shift, GATED, HAS_BIAS,
            BLOCK_N, BLOCK_M,
        )  # fmt: skip


@triton.jit
def _finish(
    acc_NM, bias, out, expert, n, pair_M, valid_M, out_N, outs, limit, alpha, shift, GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Bias, activation, and the store at the pairs' own rows."""
    if HAS_BIAS:
        acc_NM += tl.load(bias + expert * outs + out_N, mask=out_N < outs, other=0.0).to(tl.float32)[:, None]
    if GATED:
        HALF: tl.constexpr = BLOCK_N // 2
        both = acc_NM.reshape(BLOCK_N // 16, 2, 8, BLOCK_M).permute(0, 2, 3, 1)
        gate, up = tl.split(both.reshape(HALF, BLOCK_M, 2))
        gate = tl.where(gate > limit, limit, gate)  # comparisons, for NaN is to stay
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
        y_NM = (up + shift) * (gate / (1 + tl.exp(-alpha * gate)))
        column_N = n * HALF + tl.arange(0, HALF)
        width = outs // 2
    else:
        y_NM = acc_NM
        column_N = out_N
        width = outs
    place_NM = pair_M.to(tl.int64)[None, :] * width + column_N[:, None]
    tl.store(out + place_NM, y_NM.to(out.dtype.element_ty), mask=(column_N[:, None] < width) & valid_M[None, :])
