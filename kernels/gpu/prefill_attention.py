"""Attention of new tokens over the paged cache and over themselves: chunks of many requests in one launch.

A tile has BLOCK_M rows of one key-value head; a row is one query head of one token, the heads of a token next to each
other, so that a tile spans few tokens: little is lost at the diagonal and at the edges of a window, and short chunks
fill it. Each tile walks keys twice, first its chunk's own, then those before the chunk, through their pages. Of each
walk only tiles of keys at an edge (what some row must not see) are masked.

In a turn of a walk the scores of one tile of keys are computed, then the product of the weights and values of the tile
before is begun, and while it runs the scores become weights. For that ptxas must not find the accumulators touched
while a product is on its way, or it waits after each one: constants that meet at the end of a branch are enough. So the
walk that is always made comes first, and no window is a long one. tests/kernels/test_gpu_prefill_compiled.py watches.

Twin: ../reference/attention.py. Positions are counted from the chunk's first token: those before it are negative.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .prefill_tile import Tile, choose

LOWEST = tl.constexpr(-1e30)  # below every score, and finite: nothing is subtracted from infinity
LOG2_E = tl.constexpr(1.4426950408889634)
CHUNKS = tl.constexpr(128)  # looked through at a time
NO_WINDOW = (1 << 31) - 1


def prefill_attention(
    q_NHd: torch.Tensor,
    k_Nhd: torch.Tensor,
    v_Nhd: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    pages_CP: torch.Tensor,
    first_C: torch.Tensor,
    offsets_C1: torch.Tensor,
    starts_C: torch.Tensor,
    sinks_H: torch.Tensor | None,
    window: int | None,
    scale: float,
    tile: Tile | None = None,
) -> torch.Tensor:
    """(N, H, d) like q, as the twin; rows of no chunk are left undefined. No synchronisation with the host.

    q, k, v may be views whose last dimension is contiguous; caches are contiguous, of q's type or float8_e4m3fn.
    Pages are read only where a query sees them. Raises ValueError for other layouts, and for a scale not above 0.
    """
    tokens, heads, width = q_NHd.shape
    page_size, kv_heads = k_cache.shape[1:3]
    out_NHd = torch.empty((tokens, heads, width), dtype=q_NHd.dtype, device=q_NHd.device)
    chunks = len(starts_C)
    if not (k_cache.is_contiguous() and v_cache.is_contiguous()):
        raise ValueError("the caches of keys and values must be contiguous")
    if any(t.stride(-1) != 1 for t in (q_NHd, k_Nhd, v_Nhd)):
        raise ValueError("the last dimension of queries, keys and values must be contiguous")
    if not scale > 0 or (window is not None and window < 1):
        raise ValueError(f"scale must be above 0 and a window at least 1, got {scale} and {window}")
    if not tokens or not chunks or not heads:
        return out_NHd
    group = heads // kv_heads
    tile = tile or choose(width, window)
    grid = (triton.cdiv(tokens * group, tile.rows) + chunks, kv_heads)
    _prefill[grid](
        q_NHd,
        k_Nhd,
        v_Nhd,
        k_cache,
        v_cache,
        pages_CP,
        first_C,
        offsets_C1,
        starts_C,
        sinks_H,
        out_NHd,
        chunks,
        pages_CP.stride(0),
        *q_NHd.stride()[:2],
        *k_Nhd.stride()[:2],
        *v_Nhd.stride()[:2],
        min(window or NO_WINDOW, NO_WINDOW),
        scale,
        GROUP=group,
        KV_HEADS=kv_heads,
        WIDTH=width,
        PAGE=page_size,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.keys,
        BLOCK_D=max(16, triton.next_power_of_2(width)),
        STAGES=tile.stages,
        WIDE=not isinstance(_prefill, triton.JITFunction),
        num_warps=tile.warps,
        num_stages=tile.stages,
        maxnreg=tile.registers,
        enable_fp_fusion=True,  # Triton's own default has changed
    )
    return out_NHd


@triton.jit(do_not_specialize=["pages", "first", "offsets", "starts", "chunks", "pages_row", "window"])
def _prefill(
    q,  # (tokens, heads, WIDTH), strides below
    k,  # (tokens, KV_HEADS, WIDTH)
    v,
    k_cache,  # (pages, PAGE, KV_HEADS, WIDTH)
    v_cache,
    pages,  # int32 or int64 (chunks, …), rows pages_row apart
    first,  # (chunks,): the position of column 0
    offsets,  # (chunks + 1,)
    starts,  # (chunks,)
    sinks,  # (heads,) or None
    out,  # (tokens, heads, WIDTH)
    chunks,
    pages_row,
    q_token,
    q_head,
    k_token,
    k_head,
    v_token,
    v_head,
    window,
    scale,
    GROUP: tl.constexpr,  # query heads of a key-value head
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,  # at least WIDTH
    STAGES: tl.constexpr,
    WIDE: tl.constexpr,  # products in float32: the interpreter's bfloat16 products are wrong
):
    # The last tiles of a chunk have most keys: they begin first. One head after the other, for its keys to stay in L2.
    work = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    chunk = _chunk_of(work, offsets, chunks, GROUP, BLOCK_M)
    base = tl.load(offsets + chunk)
    count = (tl.load(offsets + chunk + 1) - base).to(tl.int32)
    row = (work - (base * GROUP // BLOCK_M + chunk).to(tl.int32)) * BLOCK_M
    if row < count * GROUP:
        lead = row // GROUP  # first and last token of the tile
        last = min((row + BLOCK_M - 1) // GROUP, count - 1)
        row_M = row + tl.arange(0, BLOCK_M)
        d_D = tl.arange(0, BLOCK_D)
        token_M = row_M // GROUP
        member_M = row_M % GROUP
        real_MD = (row_M < count * GROUP)[:, None] & (d_D < WIDTH)[None, :]
        q += (base + lead) * q_token + head * GROUP * q_head
        at_M = (token_M - lead) * q_token + member_M * q_head
        q_MD = tl.load(q + at_M[:, None] + d_D[None, :], mask=real_MD, other=0.0)
        if WIDE:
            q_MD = q_MD.to(tl.float32)

        # A sink is one more score, which no value answers.
        if sinks is None:
            top_M = tl.full((BLOCK_M,), LOWEST, tl.float32)
            sum_M = tl.zeros((BLOCK_M,), tl.float32)
        else:
            top_M = tl.maximum(tl.load(sinks + head * GROUP + member_M).to(tl.float32) * LOG2_E, LOWEST)
            sum_M = tl.full((BLOCK_M,), 1.0, tl.float32)
        acc_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)

        before = tl.load(starts + chunk) - tl.load(first + chunk)
        before = max(before.to(tl.int32), 0)  # keys that the pages have
        low = max(-before, lead - window + 1)
        own = max(low, 0)
        acc_MD, top_M, sum_M = _walk(
            acc_MD, top_M, sum_M, q_MD, token_M - own,
            k + (base + own) * k_token + head * k_head, v + (base + own) * v_token + head * v_head,
            pages, 0, k_token, v_token,
            last + 1 - own, lead + 1 - own, last - own, window, scale * LOG2_E,
            False, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D, STAGES, WIDE,
        )  # fmt: skip
        if low < 0:
            acc_MD, top_M, sum_M = _walk(
                acc_MD, top_M, sum_M, q_MD, token_M - low, k_cache + head * WIDTH, v_cache + head * WIDTH,
                pages + chunk.to(tl.int64) * pages_row, before + low, 0, 0,
                -low, -low, last - low, window, scale * LOG2_E,
                True, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D, STAGES, WIDE,
            )  # fmt: skip

        acc_MD = acc_MD / sum_M[:, None]
        out += ((base + lead) * KV_HEADS + head) * (GROUP * WIDTH)
        at_M = (token_M - lead) * (KV_HEADS * GROUP * WIDTH) + member_M * WIDTH
        tl.store(out + at_M[:, None] + d_D[None, :], acc_MD.to(out.dtype.element_ty), mask=real_MD)


@triton.jit
def _chunk_of(work, offsets, chunks, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """The last chunk that begins at or before tile number `work`.

    Chunk c begins at tile (its first row) // BLOCK_M + c, which leaves room for the unfinished tile of each.
    """
    found = tl.full((), -1, tl.int32)
    for at in range(0, chunks, CHUNKS):
        chunk_C = at + tl.arange(0, CHUNKS)
        offset_C = tl.load(offsets + chunk_C, mask=chunk_C < chunks, other=0)
        begins_C = offset_C * GROUP // BLOCK_M + chunk_C
        found += tl.sum(((begins_C <= work) & (chunk_C < chunks)).to(tl.int32), 0)
    return found


@triton.jit
def _walk(
    acc_MD, top_M, sum_M, q_MD, token_M, keys, values, pages, slot, k_token, v_token,
    length, clear, last, window, scale,
    PAGED: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Attend over `length` consecutive keys, a tile at a time; tokens are counted from the first of them.

    The first `clear` keys lie in no row's future. Those in pages begin at `slot` of the chunk's own pages.
    """
    hidden = tl.cdiv(max(last - window + 1, 0), BLOCK_N)  # tiles at the low end of which some row does not see all
    whole = max(clear // BLOCK_N - hidden, 0)
    was = _tile(0, hidden, whole)
    page_N = _pages(pages, slot, was, length, True, PAGED, PAGE, BLOCK_N)
    k_ND = _load(keys, page_N, slot, k_token, was, length, True, PAGED, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D)
    s_MN = tl.dot(q_MD, tl.trans(_operand(k_ND, q_MD, WIDE)))
    w_MN, fade_M, top_M, sum_M = _weights(
        s_MN, top_M, sum_M, q_MD, token_M, was, length, window, scale, True, PAGED, BLOCK_N
    )
    for t in tl.range(1, whole, num_stages=STAGES):
        acc_MD, w_MN, fade_M, top_M, sum_M, page_N = _turn(
            acc_MD, w_MN, fade_M, top_M, sum_M, page_N, q_MD, token_M, keys, values, pages, slot, k_token, v_token,
            hidden + t, hidden + t - 1, length, window, scale,
            False, PAGED, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D, WIDE,
        )  # fmt: skip
    for t in tl.range(max(whole, 1), tl.cdiv(length, BLOCK_N), num_stages=STAGES):
        acc_MD, w_MN, fade_M, top_M, sum_M, page_N = _turn(
            acc_MD, w_MN, fade_M, top_M, sum_M, page_N, q_MD, token_M, keys, values, pages, slot, k_token, v_token,
            _tile(t, hidden, whole), _tile(t - 1, hidden, whole), length, window, scale,
            True, PAGED, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D, WIDE,
        )  # fmt: skip
    was = _tile(tl.cdiv(length, BLOCK_N) - 1, hidden, whole)
    v_ND = _load(values, page_N, slot, v_token, was, length, True, PAGED, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D)
    v_ND = _operand(v_ND, q_MD, WIDE)
    acc_MD = tl.dot(_fresh(w_MN, WIDE), v_ND, acc_MD * fade_M[:, None])
    return acc_MD, top_M, sum_M


@triton.jit
def _tile(t, hidden, whole):
    """Which tile is visited t-th: those that every row sees whole, then the others from the low end on."""
    edge = t - whole
    return tl.where(edge < 0, hidden + t, tl.where(edge < hidden, edge, t))


@triton.jit
def _turn(
    acc_MD, w_MN, fade_M, top_M, sum_M, page_N, q_MD, token_M, keys, values, pages, slot, k_token, v_token,
    tile, was, length, window, scale,
    MASKED: tl.constexpr, PAGED: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Scores of a tile, then the values of the tile before it, and while those products run, the scores' weights."""
    was_N = page_N
    page_N = _pages(pages, slot, tile, length, MASKED, PAGED, PAGE, BLOCK_N)
    k_ND = _load(keys, page_N, slot, k_token, tile, length, MASKED, PAGED, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D)
    s_MN = tl.dot(q_MD, tl.trans(_operand(k_ND, q_MD, WIDE)))
    v_ND = _load(values, was_N, slot, v_token, was, length, MASKED, PAGED, KV_HEADS, WIDTH, PAGE, BLOCK_N, BLOCK_D)
    v_ND = _operand(v_ND, q_MD, WIDE)
    acc_MD = tl.dot(_fresh(w_MN, WIDE), v_ND, acc_MD * fade_M[:, None])
    w_MN, fade_M, top_M, sum_M = _weights(
        s_MN, top_M, sum_M, q_MD, token_M, tile, length, window, scale, MASKED, PAGED, BLOCK_N
    )
    return acc_MD, w_MN, fade_M, top_M, sum_M, page_N


@triton.jit
def _weights(
    s_MN, top_M, sum_M, q_MD, token_M, tile, length, window, scale,
    MASKED: tl.constexpr, PAGED: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Scores to weights relative to the highest score so far, and what that makes of older weights."""
    if MASKED:
        key_N = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        if PAGED:
            key_N = tl.where(key_N < length, key_N, 1 << 30)  # in every row's future
        seen_MN = (token_M[:, None] - key_N[None, :]).to(tl.uint32, bitcast=True) < window.to(tl.uint32)
        s_MN = tl.where(seen_MN, s_MN, float("-inf"))
    higher_M = tl.maximum(top_M, tl.max(s_MN, 1) * scale)
    w_MN = tl.exp2(s_MN * scale - higher_M[:, None])
    fade_M = tl.exp2(top_M - higher_M)
    return w_MN.to(q_MD.dtype), fade_M, higher_M, sum_M * fade_M + tl.sum(w_MN, 1)


@triton.jit
def _fresh(w_MN, WIDE: tl.constexpr):
    """Weights in registers of this turn's own: the product reads them while the next weights are made."""
    if WIDE:
        return w_MN
    else:
        return tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [w_MN], dtype=w_MN.dtype, is_pure=True, pack=2
        )  # fmt: skip


@triton.jit
def _pages(
    pages, slot, tile, length, MASKED: tl.constexpr, PAGED: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The page of each key of a tile. No entry is read for keys behind the last."""
    key_N = tl.arange(0, BLOCK_N)
    page_N = key_N
    if PAGED:
        if BLOCK_N % PAGE == 0:
            column_N = (slot + key_N) // PAGE + tile * (BLOCK_N // PAGE)
        else:
            column_N = (slot + key_N + tile * BLOCK_N) // PAGE
        if MASKED:
            page_N = tl.load(pages + column_N, mask=key_N < length - tile * BLOCK_N, other=0).to(tl.int32)
        else:
            page_N = tl.load(pages + column_N).to(tl.int32)
    return page_N


@triton.jit
def _load(
    rows, page_N, slot, token, tile, length, MASKED: tl.constexpr,
    PAGED: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A tile of keys or values, zero behind the last: what was never written may be NaN."""
    key_N = tl.arange(0, BLOCK_N)
    d_D = tl.arange(0, BLOCK_D)
    if PAGED:
        at_N = slot + key_N
        if BLOCK_N % PAGE != 0:
            at_N += tile * BLOCK_N
        at_N = page_N.to(tl.int64) * (PAGE * KV_HEADS * WIDTH) + at_N % PAGE * (KV_HEADS * WIDTH)
    else:
        rows += tile.to(tl.int64) * BLOCK_N * token
        at_N = key_N * token
    at_ND = rows + at_N[:, None] + d_D[None, :]
    if MASKED:
        mask_ND = (key_N < length - tile * BLOCK_N)[:, None] & (d_D < WIDTH)[None, :]
        return tl.load(at_ND, mask=mask_ND, other=0.0)
    elif WIDTH < BLOCK_D:
        return tl.load(at_ND, mask=(d_D < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(at_ND)


@triton.jit
def _operand(x, like, WIDE: tl.constexpr):
    """A tile of keys or values as the products take it."""
    if WIDE:
        return x.to(tl.float32)
    elif x.dtype != like.dtype:
        return x.to(tl.float16).to(tl.float32).to(like.dtype)  # the direct conversion takes the slowest unit
    else:
        return x
