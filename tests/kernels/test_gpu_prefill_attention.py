"""Attention of chunks over the paged cache against an oracle in float64 that looks up one key after the other.

Without a GPU it runs under Triton's interpreter, in float32: it sees every wrong index, mask and sum, and a page number
that should not be looked at is one that faults, but not the rounding of bfloat16, nor what the pipeline does.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu.prefill_attention import prefill_attention
from yardmaster.kernels.gpu.prefill_tile import Tile
from yardmaster.kernels.reference import attention as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE, CLOSE = (torch.bfloat16, 8e-3) if DEVICE == "cuda" else (torch.float32, 1e-6)
# Rows and keys of a product: few, so that little is more than one turn of every loop.
TILES = [Tile(16, 16, 4, 2), Tile(32, 16, 4, 3)] if DEVICE == "cpu" else [Tile(64, 64, 4, 2), None]
NOWHERE = 1 << 31  # a page whose address is in nobody's memory


@dataclass
class Case:
    """Chunks of requests, and a cache in which everything that they may not look at is NaN, or far away."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    pages: torch.Tensor
    first: torch.Tensor
    offsets: torch.Tensor
    starts: torch.Tensor
    sinks: torch.Tensor | None
    window: int | None
    scale: float

    def arguments(self) -> tuple:
        return tuple(vars(self).values())


def make(
    chunks: list[tuple[int, int]],  # tokens before the chunk, tokens of it
    *,
    kv_heads: int = 2,
    group: int = 4,
    width: int = 16,
    page_size: int = 4,
    window: int | None = None,
    sinks: bool = True,
    behind: bool = False,  # the tables begin at the window, not at position 0
    dtype: torch.dtype = DTYPE,
    cache: torch.dtype | None = None,
    index: torch.dtype = torch.int64,
) -> Case:
    tokens, heads = sum(count for _, count in chunks), kv_heads * group
    qkv = torch.randn(tokens, heads + 2 * kv_heads, width).to(dtype)
    columns = max([-(-start // page_size) for start, _ in chunks], default=0) + 2
    total = sum(-(-start // page_size) for start, _ in chunks) + 1
    free = torch.randperm(total).tolist()
    caches = torch.full((2, total, page_size, kv_heads, width), float("nan"))
    pages = torch.full((len(chunks), columns + 3), NOWHERE - 1 if index == torch.int32 else NOWHERE, dtype=index)
    first = torch.zeros(len(chunks), dtype=torch.int64)
    for c, (start, _) in enumerate(chunks):
        oldest = 0 if window is None else max(0, start - window + 1)
        if behind:
            first[c] = oldest // page_size * page_size
        for position in range(oldest, start):
            column = (position - int(first[c])) // page_size
            if not 0 <= pages[c, column] < total:
                pages[c, column] = free.pop()
            caches[:, pages[c, column], position % page_size] = torch.randn(2, kv_heads, width)
    caches = caches.to(cache or dtype)
    offsets = torch.tensor([0, *[count for _, count in chunks]]).cumsum(0)
    case = Case(
        *qkv.split([heads, kv_heads, kv_heads], 1),
        *caches.unbind(0),
        pages[:, :columns],  # rows lie further apart than they are long
        first,
        offsets,
        torch.tensor([start for start, _ in chunks], dtype=torch.int64),
        torch.randn(heads) if sinks else None,
        window,
        0.37,
    )
    return Case(*(one.to(DEVICE) if isinstance(one, torch.Tensor) else one for one in case.arguments()))


def oracle(case: Case) -> torch.Tensor:
    """Each token by itself, its keys one by one from where they are."""
    one = Case(*(x.cpu() if isinstance(x, torch.Tensor) else x for x in case.arguments()))
    heads, kv_heads, page_size = one.q.shape[1], one.k.shape[1], one.k_cache.shape[1]
    out = torch.full(one.q.shape, float("nan"), dtype=torch.float64)
    for c, start in enumerate(one.starts.tolist()):
        low, high = one.offsets[c : c + 2].tolist()
        for n in range(low, high):
            position = start + n - low
            seen = range(0 if one.window is None else max(0, position - one.window + 1), position + 1)
            keys, values = [], []
            for at in seen:
                column, within = divmod(at - int(one.first[c]), page_size)
                k, v, place = one.k, one.v, low + at - start
                if at < start:
                    k, v, place = one.k_cache[:, within], one.v_cache[:, within], int(one.pages[c, column])
                keys.append(k[place].double().repeat_interleave(heads // kv_heads, 0))
                values.append(v[place].double().repeat_interleave(heads // kv_heads, 0))
            scores_LH = one.scale * torch.stack([(one.q[n].double() * k).sum(-1) for k in keys])
            if one.sinks is not None:
                scores_LH = torch.cat((scores_LH, one.sinks.double()[None]))
            weights_LH = scores_LH.softmax(0)[: len(values)]
            out[n] = (weights_LH[..., None] * torch.stack(values)).sum(0)
    return out


def check(case: Case, tile: Tile | None = TILES[0], close: float = CLOSE) -> None:
    got, want = prefill_attention(*case.arguments(), tile=tile), oracle(case)
    assert got.shape == case.q.shape
    assert got.dtype == case.q.dtype
    assert got.is_contiguous()
    got = got.cpu().double()
    assert (got - want).norm() <= close * want.norm()
    worst = (got - want).norm(dim=-1) / want.norm(dim=-1)
    assert worst.numel() == 0 or worst.max() <= 20 * close  # no single head of a token is wrong either


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel leaves unwritten is NaN."""
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: real(*a, **k).fill_(float("nan")))


@pytest.mark.parametrize(("window", "tile"), [(w, TILES[0]) for w in (None, 1, 2, 17, 1000)] + [(9, TILES[1])])
def test_chunks_over_the_cache_and_themselves(window: int | None, tile: Tile) -> None:
    check(make([(7, 5), (0, 1), (33, 13), (3, 0), (0, 19), (16, 1)], window=window, kv_heads=1), tile)


@pytest.mark.parametrize(("rows", "window"), [(16, None), (16, 47), (32, 40)])
def test_turns_without_a_mask(rows: int, window: int | None) -> None:
    """Tiles that all rows see whole, between edges of more than one tile at either end."""
    tile = Tile(rows, 16, 4, 2) if DEVICE == "cpu" else None
    check(make([(70, 5), (3, 66)], window=window, kv_heads=1, group=1, width=8), tile)


@pytest.mark.parametrize("page_size", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("window", [None, 11])
def test_page_sizes(page_size: int, window: int | None) -> None:
    check(make([(0, 3), (70, 7), (64, 2)], page_size=page_size, window=window, behind=True, kv_heads=1))


@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (3, 4), (2, 8), (2, 7), (1, 20)])
def test_query_heads_of_a_key_value_head(kv_heads: int, group: int) -> None:
    """20 heads: a token's stand in two tiles."""
    check(make([(9, 5), (0, 4), (2, 1)], kv_heads=kv_heads, group=group))


@pytest.mark.parametrize("width", [8, 24, 64, 80, 128])
@pytest.mark.parametrize("sinks", [True, False])
def test_widths_of_heads(width: int, sinks: bool) -> None:
    check(make([(5, 4), (0, 3)], width=width, sinks=sinks, group=2))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("window", [None, 1, 6, 40])
def test_what_lies_outside_the_window_is_never_looked_at(window: int | None, index: torch.dtype) -> None:
    """Entries before it and behind the chunk's start name pages that do not exist, wherever the table begins."""
    for behind in (False, True):
        check(make([(30, 9), (12, 2)], window=window, behind=behind, index=index, kv_heads=1, width=8))


@pytest.mark.parametrize("chunks", [[], [(5, 0)], [(0, 0), (9, 0), (3, 0)]])
def test_nothing_to_do(chunks: list[tuple[int, int]]) -> None:
    case = make(chunks)
    assert prefill_attention(*case.arguments()).shape == case.q.shape


def test_rows_of_no_chunk_disturb_none() -> None:
    """A step of fixed size has more rows than tokens, and more chunks than there are: the others are empty."""
    case = make([(6, 5), (0, 8)])
    want = oracle(case)
    rows = torch.full((9, *case.q.shape[1:]), float("nan"), dtype=DTYPE, device=DEVICE)
    case.q, case.k, case.v = (torch.cat((x, rows[:, : x.shape[1]])) for x in (case.q, case.k, case.v))
    case.offsets = torch.cat((case.offsets, case.offsets[-1:].expand(3)))
    case.starts, case.first = (
        torch.cat((x, torch.tensor([1 << 40, -5, 7], device=DEVICE))) for x in (case.starts, case.first)
    )
    case.pages = torch.cat((case.pages, torch.full_like(case.pages[:1], NOWHERE).expand(3, -1)))
    got = prefill_attention(*case.arguments(), tile=TILES[0])[:13].cpu().double()
    assert (got - want).norm() <= CLOSE * want.norm()


def test_many_chunks() -> None:
    """More than are looked through at a time, most of them empty."""
    check(make([(7 * c % 5, 3 if c % 13 == 0 else 0) for c in range(157)], kv_heads=1, group=1, width=8))


def test_a_row_has_the_same_bits_whatever_stands_beside_its_chunk() -> None:
    alone, among = make([(21, 6)]), make([(3, 5), (21, 6), (0, 9)])
    among.q[5:11], among.k[5:11], among.v[5:11] = alone.q, alone.k, alone.v
    used = -(-21 // 4)
    for to, source in ((among.k_cache, alone.k_cache), (among.v_cache, alone.v_cache)):
        to[among.pages[1, :used]] = source[alone.pages[0, :used]]
    among.sinks = alone.sinks
    got = prefill_attention(*among.arguments(), tile=TILES[0])[5:11]
    assert torch.equal(got, prefill_attention(*alone.arguments(), tile=TILES[0]))


@pytest.mark.parametrize("window", [None, 5])
def test_a_cache_in_eight_bits(window: int | None) -> None:
    check(make([(19, 6), (0, 2), (8, 5)], window=window, cache=torch.float8_e4m3fn))


def test_scores_of_any_size() -> None:
    """Weights of one key alone, of a sink alone, and of a sink that is none."""
    case = make([(9, 12)])
    case.scale = 50.0
    check(case, close=10 * CLOSE)
    case.scale, case.sinks = 0.3, torch.tensor([30, -1e4, float("-inf"), 0, 20, -80, 3, -3], device=DEVICE)
    check(case)


def test_a_token_that_is_not_a_number_stays_alone() -> None:
    case = make([(4, 9)])
    want = prefill_attention(*case.arguments(), tile=TILES[0])
    case.q[3, 2] = float("nan")
    got = prefill_attention(*case.arguments(), tile=TILES[0])
    assert got[3, 2].isnan().all()
    got[3, 2] = want[3, 2]
    assert torch.equal(got, want)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_chunks(data: st.DataObject) -> None:
    small = st.tuples(st.integers(0, 37), st.integers(0, 11))
    case = make(
        data.draw(st.lists(small, min_size=1, max_size=3)),
        kv_heads=data.draw(st.sampled_from([1, 2])),
        group=data.draw(st.integers(1, 9)),
        page_size=data.draw(st.sampled_from([1, 4, 16])),
        window=data.draw(st.none() | st.integers(1, 45)),
        sinks=data.draw(st.booleans()),
        behind=data.draw(st.booleans()),
        width=8,
    )
    check(case, data.draw(st.sampled_from(TILES)))


def test_agrees_with_its_twin() -> None:
    case = make([(9, 5), (0, 1), (17, 12)], window=7, behind=True)
    case.pages.clamp_(0, len(case.k_cache) - 1)  # the twin may look at what it does not use
    want = reference.prefill_attention(*case.arguments())
    got = prefill_attention(*case.arguments(), tile=TILES[0])
    torch.testing.assert_close(got.float(), want.float(), rtol=CLOSE * 10, atol=CLOSE * 10)


def test_layouts_that_it_does_not_take() -> None:
    case = make([(4, 3)])
    for change in (
        {"k_cache": case.k_cache.transpose(0, 1).contiguous().transpose(0, 1)},
        {"q": case.q.transpose(1, 2).contiguous().transpose(1, 2)},
        {"scale": 0.0},
        {"window": 0},
    ):
        with pytest.raises(ValueError, match=r"contiguous|above 0"):
            prefill_attention(*Case(**{**vars(case), **change}).arguments())


SHAPES = {"gpt-oss": (8, 8, 64), "mixtral": (8, 4, 128), "qwen3-30b": (4, 8, 128), "wide 80": (2, 4, 80)}


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 128, 777])
@pytest.mark.parametrize("shape", SHAPES)
def test_true_shapes(shape: str, window: int | None) -> None:
    """Against the twin in float32, on the tiles that are chosen, over more keys than one turn of any loop."""
    kv_heads, group, width = SHAPES[shape]
    torch.manual_seed(0)
    for cache in (None, torch.float8_e4m3fn):
        case = make(
            [(0, 1111), (1500, 513), (7, 1), (2048, 0), (640, 64)],
            kv_heads=kv_heads,
            group=group,
            width=width,
            page_size=16,
            window=window,
            behind=True,
            index=torch.int32,
            cache=cache,
        )
        got = prefill_attention(*case.arguments())
        case.pages.clamp_(0, len(case.k_cache) - 1)
        wide = (x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in case.arguments())
        want = reference.prefill_attention(*wide)
        assert (got.float() - want).norm() <= CLOSE * want.norm()
        again = prefill_attention(*case.arguments())
        assert torch.equal(got, again)


@pytest.mark.gpu
def test_in_a_graph_with_other_chunks_than_it_was_captured_with() -> None:
    """Offsets, starts and pages are read on the device: one capture serves all steps of its size."""
    first, then = (make([(a, b), (c, 96 - b)], page_size=16, width=64) for a, b, c in ((100, 40, 3), (77, 91, 128)))
    columns = max(first.pages.shape[1], then.pages.shape[1])
    size = max(len(first.k_cache), len(then.k_cache))
    for case in (first, then):
        case.pages = torch.nn.functional.pad(case.pages, (0, columns - case.pages.shape[1]), value=NOWHERE)
        case.k_cache, case.v_cache = (
            torch.cat((x, x[:1].expand(size - len(x), -1, -1, -1))) for x in (case.k_cache, case.v_cache)
        )
    wants = [prefill_attention(*case.arguments()) for case in (first, then)]
    inputs = [{k: x.clone() for k, x in vars(c).items() if isinstance(x, torch.Tensor)} for c in (first, then)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = prefill_attention(*first.arguments())
    for which in (1, 0):
        for name, value in inputs[which].items():
            getattr(first, name).copy_(value)
        graph.replay()
        assert torch.equal(out, wants[which])
