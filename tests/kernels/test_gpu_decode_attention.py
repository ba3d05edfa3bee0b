"""Decode attention over the paged cache against an oracle in float64 that looks up one key after the other.

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

from yardmaster.kernels.gpu.arrivals import arrivals
from yardmaster.kernels.gpu.decode_attention import decode_attention
from yardmaster.kernels.gpu.decode_plan import Plan, choose
from yardmaster.kernels.reference import attention as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE, CLOSE = (torch.bfloat16, 8e-3) if DEVICE == "cuda" else (torch.float32, 1e-6)
NOWHERE = 1 << 40  # a page whose address is in nobody's memory
CUT = Plan(2, 16, 2, 128, 1, granule=16)  # small shares: most units are in parts, and steps are not full
PAIRS = Plan(2, 16, 2, 128, 1, granule=8, heads=2)  # a warp has a head of keys, not some keys of one head
PLANS = [None, CUT, PAIRS, Plan(1, 16, 3, 128, 1, granule=7, least=2, most=2), Plan(4, 16, 3, 128, 2, granule=64)]


@dataclass
class Case:
    """A step of decoding requests, and a cache in which everything that they may not look at is NaN, or far away."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    pages: torch.Tensor
    first: torch.Tensor
    positions: torch.Tensor
    sinks: torch.Tensor | None
    window: int | None
    scale: float

    def arguments(self) -> tuple:
        return tuple(vars(self).values())


def make(
    positions: list[int],
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
    batch, heads = len(positions), kv_heads * group
    qkv = torch.randn(batch, heads + 2 * kv_heads, width).to(dtype)
    columns = max([position // page_size + 1 for position in positions], default=0) + 2
    total = sum(position // page_size + 1 for position in positions) + 1
    free = torch.randperm(total).tolist()
    caches = torch.full((2, total, page_size, kv_heads, width), float("nan"))
    pages = torch.full((batch, columns + 3), NOWHERE if index == torch.int64 else (1 << 31) - 1, dtype=index)
    first = torch.zeros(batch, dtype=torch.int64)
    for b, position in enumerate(positions):
        oldest = 0 if window is None else max(0, position - window + 1)
        if behind:
            first[b] = oldest // page_size * page_size
        for at in range(oldest, position + 1):
            column = (at - int(first[b])) // page_size
            if not 0 <= pages[b, column] < total:
                pages[b, column] = free.pop()
            caches[:, pages[b, column], at % page_size] = torch.randn(2, kv_heads, width)
    caches = caches.to(cache or dtype)
    case = Case(
        qkv[:, :heads],  # rows lie further apart than they are long
        *caches.unbind(0),
        pages[:, :columns],
        first,
        torch.tensor(positions, dtype=torch.int64),
        torch.randn(heads) if sinks else None,
        window,
        0.37,
    )
    return Case(*(one.to(DEVICE) if isinstance(one, torch.Tensor) else one for one in case.arguments()))


def oracle(case: Case) -> torch.Tensor:
    """Each request by itself, its keys one by one from where they are."""
    one = Case(*(x.cpu() if isinstance(x, torch.Tensor) else x for x in case.arguments()))
    heads, page_size, kv_heads = one.q.shape[1], *one.k_cache.shape[1:3]
    out = torch.zeros(one.q.shape, dtype=torch.float64)
    for b, position in enumerate(one.positions.tolist()):
        if position < 0:
            continue
        keys, values = [], []
        for at in range(0 if one.window is None else max(0, position - one.window + 1), position + 1):
            column, within = divmod(at - int(one.first[b]), page_size)
            page = int(one.pages[b, column])
            keys.append(one.k_cache[page, within].double().repeat_interleave(heads // kv_heads, 0))
            values.append(one.v_cache[page, within].double().repeat_interleave(heads // kv_heads, 0))
        scores_LH = one.scale * torch.stack([(one.q[b].double() * k).sum(-1) for k in keys])
        if one.sinks is not None:
            scores_LH = torch.cat((scores_LH, one.sinks.double()[None]))
        weights_LH = scores_LH.softmax(0)[: len(values)]
        out[b] = (weights_LH[..., None] * torch.stack(values)).sum(0)
    return out


def check(case: Case, plan: Plan | None = None, close: float = CLOSE) -> None:
    got, want = decode_attention(*case.arguments(), plan=plan), oracle(case)
    assert got.shape == case.q.shape
    assert got.dtype == case.q.dtype
    assert got.is_contiguous()
    got = got.cpu().double()
    assert (got - want).norm() <= close * want.norm()
    live = case.positions.cpu() >= 0
    assert (got[~live] == 0).all()
    worst = (got - want).norm(dim=-1)[live] / want.norm(dim=-1)[live]
    assert worst.numel() == 0 or worst.max() <= 20 * close  # no single head of a request is wrong either
    assert not arrivals(case.q.device, 1).any()


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel leaves unwritten is NaN."""
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: real(*a, **k).fill_(float("nan")))


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("window", [None, 1, 17, 64])
def test_long_and_short_requests_in_one_step(window: int | None, plan: Plan | None) -> None:
    check(make([0, 90, 15, 16, -1, 64, 3], window=window), plan)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_one_request_in_many_parts(plan: Plan | None) -> None:
    check(make([311], group=2, width=8), plan)


@pytest.mark.parametrize("page_size", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("window", [None, 11])
def test_page_sizes(page_size: int, window: int | None) -> None:
    check(make([70, 0, 13], page_size=page_size, window=window, behind=True), CUT)


@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (3, 4), (2, 8), (2, 7), (1, 20), (4, 2)])
def test_query_heads_of_a_key_value_head(kv_heads: int, group: int) -> None:
    for plan in (CUT, PAIRS) if kv_heads % 2 == 0 else (CUT,):
        check(make([37, 5, 11], kv_heads=kv_heads, group=group), plan)


@pytest.mark.parametrize("width", [8, 24, 64, 80, 128])
def test_widths_of_heads(width: int) -> None:
    for plan, sinks in ((CUT, True), (PAIRS, False)):
        check(make([40, 3], width=width, sinks=sinks, group=2), plan)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 40])
def test_what_lies_outside_the_window_is_never_looked_at(window: int | None) -> None:
    """Entries before it and behind the position name pages that do not exist, wherever the table begins."""
    for behind, index, plan in ((False, torch.int64, CUT), (True, torch.int32, CUT), (False, torch.int32, PAIRS)):
        check(make([30, 7, 8, 55, -1], window=window, behind=behind, index=index), plan)


def test_padding_reads_nothing() -> None:
    """Neither its pages nor its query matter, and its result is zero, beside other rows and alone."""
    for sinks, first in ((True, 1 << 40), (False, -100)):
        for positions in ([-1, 21, -7, 4, -1], [-1]):
            case = make(positions, sinks=sinks)
            padding = case.positions < 0
            case.q[padding] = float("nan")
            case.first[padding] = first
            want = torch.zeros_like(case.q)
            got = decode_attention(*case.arguments(), plan=CUT)
            assert torch.equal(got[padding], want[padding])
            case.q[padding] = 0
            check(case, CUT)


def test_no_rows_and_no_pages() -> None:
    case = make([])
    assert decode_attention(*case.arguments()).shape == case.q.shape
    case = make([-1, -1])
    case.pages = case.pages[:, :0]
    check(case)


def test_more_rows_than_are_counted_at_a_time() -> None:
    check(make([(7 * b) % 23 - 1 for b in range(40)], kv_heads=1, group=2, width=8))


@pytest.mark.parametrize("page_size", [4, 16])
def test_a_position_beyond_the_table_does_not_read_beyond_it(page_size: int) -> None:
    """What the table cannot name is not there; its neighbour in memory is another request's."""
    case = make([29, 11], page_size=page_size)
    want = oracle(case)
    case.pages = case.pages[:, : -(-30 // page_size)].contiguous()
    spare = case.pages.shape[1] * page_size - 30
    case.k_cache[case.pages[0, -1], page_size - spare :] = float("-inf") if spare == 0 else 0
    case.v_cache[case.pages[0, -1], page_size - spare :] = 0
    case.positions[0] += 1000
    got = decode_attention(*case.arguments(), plan=CUT).cpu().double()
    assert got.isfinite().all()
    assert (got[1] - want[1]).norm() <= CLOSE * want[1].norm()


def test_the_same_call_gives_the_same_bits() -> None:
    case = make([50, 4, 33])
    assert torch.equal(decode_attention(*case.arguments(), plan=CUT), decode_attention(*case.arguments(), plan=CUT))


@pytest.mark.parametrize("window", [None, 5])
def test_a_cache_in_eight_bits(window: int | None) -> None:
    for plan in (CUT, PAIRS):
        check(make([39, 0], window=window, cache=torch.float8_e4m3fn), plan)


def test_scores_of_any_size() -> None:
    """Weights of one key alone, of a sink alone, of a sink that is none; a scale that turns scores round."""
    case = make([40, 12])
    for case.scale in (50.0, 0.0, -0.3):
        check(case, CUT, 30 * CLOSE)  # of large scores little is left behind the point
    case.scale, case.sinks = 0.3, torch.tensor([1e4, -1e4, float("-inf"), 0, 80, -80, 3, -3], device=DEVICE)
    got = decode_attention(*case.arguments(), plan=CUT).cpu().double()
    assert (got - oracle(case)).abs().max() <= 10 * CLOSE
    case.positions[1] = -1
    assert (decode_attention(*case.arguments(), plan=CUT)[1] == 0).all()


def test_a_query_that_is_not_a_number_stays_alone() -> None:
    case = make([70, 9])
    want = decode_attention(*case.arguments(), plan=CUT)
    case.q[0, 2] = float("nan")
    got = decode_attention(*case.arguments(), plan=CUT)
    assert got[0, 2].isnan().all()
    got[0, 2] = want[0, 2]
    assert torch.equal(got, want)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_step(data: st.DataObject) -> None:
    case = make(
        data.draw(st.lists(st.integers(-1, 60), min_size=1, max_size=4)),
        kv_heads=data.draw(st.sampled_from([1, 2])),
        group=data.draw(st.integers(1, 9)),
        page_size=data.draw(st.sampled_from([1, 4, 16])),
        window=data.draw(st.none() | st.integers(1, 80)),
        sinks=data.draw(st.booleans()),
        behind=data.draw(st.booleans()),
        width=8,
    )
    granule, least, most = (data.draw(st.integers(1, top)) for top in (33, 3, 9))
    heads = data.draw(st.sampled_from([1, case.k_cache.shape[2]]))
    check(case, data.draw(st.none() | st.just(Plan(2, 16, 2, 128, 1, granule, heads, least, most))))


@pytest.mark.parametrize("window", [None, 9])
def test_agrees_with_its_twin(window: int | None) -> None:
    case = make([25, -1, 0, 17], window=window, behind=True)
    case.pages.clamp_(0, len(case.k_cache) - 1)  # the twin may look at what it does not use
    case.k_cache.nan_to_num_()
    want = reference.decode_attention(*case.arguments())
    got = decode_attention(*case.arguments(), plan=CUT)
    torch.testing.assert_close(got.float(), want.float(), rtol=CLOSE * 10, atol=CLOSE * 10)


def test_other_layouts() -> None:
    case = make([40, 3])
    want = decode_attention(*case.arguments(), plan=CUT)
    case.q = case.q.transpose(1, 2).contiguous().transpose(1, 2)
    case.pages = case.pages.t().contiguous().t()
    assert torch.equal(decode_attention(*case.arguments(), plan=CUT), want)
    case.k_cache = case.k_cache.transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(ValueError, match="contiguous"):
        decode_attention(*case.arguments())
    with pytest.raises(ValueError, match="power of two"):
        decode_attention(*make([5], page_size=3).arguments())
    with pytest.raises(ValueError, match="heads"):
        decode_attention(*make([5], kv_heads=3).arguments(), plan=PAIRS)


@pytest.mark.parametrize("window", [None, 128, 4096])
@pytest.mark.parametrize(("kv_heads", "group", "width"), [(8, 8, 64), (4, 8, 128), (8, 4, 128), (1, 71, 80)])
def test_plans_fit_a_multiprocessor(kv_heads: int, group: int, width: int, window: int | None) -> None:
    for batch in (1, 32, 128, 1000):
        for size in (1, 2):
            plan = choose(batch, kv_heads, group, width, size, window, 132)
            assert plan.resident * plan.warps * 32 * plan.registers <= 65536
            step = plan.warps * plan.keys * 2 * width * size
            assert plan.resident == 1 or plan.resident * (plan.stages - 1) * step <= 220 << 10
            assert kv_heads % plan.heads == 0
            assert plan.heads == 1 or batch * kv_heads // plan.heads >= 99  # never fewer units than work for most
            assert window != 128 or plan.granule == 128  # a short window is not cut
            assert plan.programs(8, 0, 132) <= 8
            assert plan.programs(1 << 20, 1 << 20, 132) == 132 * plan.resident


SHAPES = {"gpt-oss": (8, 8, 64), "mixtral": (8, 4, 128), "qwen3-30b": (4, 8, 128), "seven of 80": (2, 7, 80)}


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 128, 777])
@pytest.mark.parametrize("shape", SHAPES)
def test_true_shapes(shape: str, window: int | None) -> None:
    """Against the twin in float32, on the plans that are chosen: one long request, a step of many, and padding."""
    kv_heads, group, width = SHAPES[shape]
    torch.manual_seed(0)
    for positions in ([8191], [1023, 5000, -1, 0, 127, 128, 2222, 63], [(b * 97) % 1500 - 1 for b in range(130)]):
        for cache in (None, torch.float8_e4m3fn):
            case = make_large(positions, kv_heads, group, width, window, cache)
            got = decode_attention(*case.arguments())
            again = decode_attention(*case.arguments())
            assert torch.equal(got, again), "the same call gave other bits"
            case.pages.clamp_(0, len(case.k_cache) - 1)
            wide = (x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in case.arguments())
            want = reference.decode_attention(*wide)
            assert (got.float() - want).norm() <= CLOSE * want.norm()
            live = case.positions >= 0
            worst = (got.float() - want).norm(dim=-1)[live] / want.norm(dim=-1)[live]
            assert worst.max() <= 10 * CLOSE
            assert not arrivals(case.q.device, 1).any()


def make_large(
    positions: list[int], kv_heads: int, group: int, width: int, window: int | None, cache: torch.dtype | None
) -> Case:
    """As `make`, page by page: keys before a window are there, but no entry names them."""
    counts = [position // 16 + 1 for position in positions]
    total, columns, heads = sum(counts) + 1, max(counts) + 5, kv_heads * group
    caches = torch.randn(2, total, 16, kv_heads, width, device=DEVICE).to(DTYPE).to(cache or DTYPE)
    free = torch.randperm(total).tolist()
    pages = torch.full((len(positions), columns), (1 << 31) - 1, dtype=torch.int32)
    for b, (position, count) in enumerate(zip(positions, counts, strict=True)):
        oldest = 0 if window is None else max(0, position - window + 1)
        for column in range(oldest // 16, count):
            pages[b, column] = free.pop()
    return Case(
        torch.randn(len(positions), heads, width, device=DEVICE).to(DTYPE),
        *caches.unbind(0),
        pages.to(DEVICE),
        torch.zeros(len(positions), dtype=torch.int64, device=DEVICE),
        torch.tensor(positions, device=DEVICE),
        torch.randn(heads, device=DEVICE).to(DTYPE),
        window,
        width**-0.5,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 128])
def test_in_a_graph_with_other_lengths_than_it_was_captured_with(window: int | None) -> None:
    """Lengths and pages are read on the device: one capture serves all steps of its size."""
    batch, columns = 5, 200
    case = make_large([columns * 16 - 97] * batch, 8, 8, 64, window, None)
    decode_attention(*case.arguments())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode_attention(*case.arguments())
    for positions in ([-1] * batch, [0, 3000, 17, -1, 999], [3100] * batch, [127, 128, 129, 64, 2047]):
        other = make_large(positions, 8, 8, 64, window, None)
        case.pages.fill_((1 << 31) - 1)
        case.pages[:, : other.pages.shape[1]] = other.pages[:, : case.pages.shape[1]]
        for name in ("q", "positions"):
            getattr(case, name).copy_(getattr(other, name))
        for name in ("k_cache", "v_cache"):
            getattr(case, name)[: len(other.k_cache)] = getattr(other, name)
        graph.replay()
        assert torch.equal(out, decode_attention(*case.arguments()))
        other.pages.clamp_(0, len(other.k_cache) - 1)
        other.sinks = case.sinks
        want = reference.decode_attention(*other.arguments())
        assert (out.float() - want.float()).norm() <= CLOSE * want.float().norm() + 1e-6
