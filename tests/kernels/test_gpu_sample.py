"""Sampling on the GPU (here: Triton's interpreter) against the reference: the same tokens, not just as likely ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from yardmaster.kernels.gpu import sample as module  # noqa: E402
from yardmaster.kernels.gpu import sample_split  # noqa: E402
from yardmaster.kernels.gpu.sample import sample  # noqa: E402
from yardmaster.kernels.gpu.sample_exp import exp_of_minus, near  # noqa: E402
from yardmaster.kernels.reference import sampling as reference  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DRAWS = 4000 if GPU else 10
SOME = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
VOCABS = (1, 2, 7, 1000, 1024, 2100)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is no token, no count and no mass that it could be right by chance."""
    real = torch.empty

    def empty(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = real(*args, **kwargs)
        return made.fill_(True if made.dtype == torch.bool else float("nan") if made.is_floating_point() else 987654321)

    monkeypatch.setattr(torch, "empty", empty)


@dataclass
class Rows:
    """Rows and what each asks for."""

    logits: torch.Tensor
    temperature: torch.Tensor
    min_p: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    seed: torch.Tensor
    index: torch.Tensor

    def sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, broken = sample(*(value.to(DEVICE) for value in self.__dict__.values()))
        assert (tokens.dtype, broken.dtype) == (torch.int64, torch.bool)
        return tokens.cpu(), broken.cpu()

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As the sampler asks the reference: greedy rows take the maximum, rows that cut stand in front."""
        vocab = self.logits.shape[1]
        best, tokens = self.logits.max(-1)
        cut = ((self.top_k > 0) & (self.top_k < vocab)) | (self.top_p < 1)
        drawn = self.temperature > 0
        rows = torch.cat(((drawn & cut).nonzero().flatten(), (drawn & ~cut).nonzero().flatten()))
        tokens[rows] = reference.draw(
            self.logits,
            rows,
            self.temperature[rows].double(),
            self.min_p[rows].double(),
            torch.where((self.top_k > 0) & (self.top_k < vocab), self.top_k, vocab)[rows],
            self.top_p[rows].double(),
            reference.uniform(self.seed[rows], self.index[rows]),
            int((drawn & cut).sum()),
        )
        return tokens, ~best.isfinite()

    def check(self) -> torch.Tensor:
        tokens, broken = self.sample()
        want, want_broken = self.expected()
        assert tokens.tolist() == want.tolist()
        assert broken.tolist() == want_broken.tolist()
        return tokens


def rows_of(
    logits: torch.Tensor,
    temperature: float = 1.0,
    min_p: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Rows:
    """All rows ask for the same, with seeds of their own."""
    count = len(logits)
    full = lambda value: torch.full((count,), value, dtype=torch.float64)  # noqa: E731
    return Rows(
        logits,
        full(temperature),
        full(min_p),
        torch.full((count,), top_k),
        full(top_p),
        torch.arange(count) * 7919 + seed,
        torch.arange(count) % 5,
    )


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    vocab, count = draw(st.sampled_from(VOCABS)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(count, vocab, generator=generator) * draw(st.sampled_from([0.01, 1.0, 3.0, 30.0]))
    if draw(st.booleans()):  # many ties
        logits = logits.mul(2).round() / 2
    if draw(st.booleans()):
        logits = logits.bfloat16()
    each = lambda kind: draw(st.lists(kind, min_size=count, max_size=count))  # noqa: E731
    real = draw(st.sampled_from([torch.float32, torch.float64]))
    return Rows(
        logits,
        torch.tensor(
            each(st.one_of(st.just(0.0), st.just(1.0), st.floats(0.05, 3.0), st.floats(1e-9, 100))), dtype=real
        ),
        torch.tensor(each(st.one_of(st.just(0.0), st.floats(0.0, 1.0))), dtype=real),
        torch.tensor(each(st.one_of(st.just(0), st.integers(-2, 60), st.integers(1, vocab + 2)))),
        torch.tensor(each(st.one_of(st.just(1.0), st.floats(1e-9, 1.0, exclude_min=True))), dtype=real),
        torch.tensor(each(st.integers(-(1 << 63), (1 << 63) - 1))),
        torch.tensor(each(st.integers(0, 1 << 40))),
    )


@SOME
@given(rows=some_rows(), blocks=st.sampled_from([2, 256]), entries=st.sampled_from([0, 200, 1 << 21]))
def test_tokens_are_those_of_the_reference(rows: Rows, blocks: int, entries: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_split, "MOST_BLOCKS", blocks)
        patch.setattr(module, "LIST_ENTRIES", entries)
        rows.check()


@pytest.mark.parametrize(
    "asked",
    [{}, {"top_k": 9}, {"top_p": 0.8}, {"top_k": 30, "top_p": 0.9, "temperature": 0.7}, {"min_p": 0.1, "top_p": 0.9}],
    ids=str,
)
def test_many_draws_from_few_tokens(asked: dict) -> None:
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(5)).expand(DRAWS, 60)
    tokens = rows_of(logits, **asked).check()
    assert len(tokens.unique()) > 2


def test_draws_follow_the_parameters_of_their_row_alone() -> None:
    vocab = 1500
    logits = torch.randn(6, vocab, generator=torch.Generator().manual_seed(9))
    rows = rows_of(logits)
    rows.temperature[:] = torch.tensor([0.0, 1.0, 0.5, 2.0, 1.0, 0.0])
    rows.top_k[:] = torch.tensor([3, 0, 40, 0, 0, 0])
    rows.top_p[:] = torch.tensor([0.5, 1.0, 0.9, 0.99, 1.0, 0.9])
    rows.min_p[:] = torch.tensor([0.5, 0.0, 0.0, 0.0, 1.0, 0.0])  # 1.0 keeps the best one
    together = rows.check().tolist()
    for i in (5, 3):
        one = Rows(*(value[i : i + 1] for value in rows.__dict__.values()))
        assert one.check().tolist() == together[i : i + 1]


HOSTILE = {
    "all forbidden": lambda x: x.fill_(-torch.inf),
    "all NaN": lambda x: x.fill_(torch.nan),
    "one NaN": lambda x: x[1050].fill_(torch.nan),
    "negative NaN": lambda x: x[3].copy_(-torch.tensor(torch.nan)),
    "+inf": lambda x: x[40].fill_(torch.inf),
    "+inf and NaN": lambda x: (x[40].fill_(torch.inf), x[1099].fill_(torch.nan)),
    "one finite": lambda x: (x.fill_(-torch.inf), x[1099].fill_(-3e38)),
    "two finite": lambda x: (x.fill_(-torch.inf), x[1023].fill_(1.0), x[1024].fill_(1.5)),
    "all equal": lambda x: x.fill_(7.0),
    "all zeros of both signs": lambda x: x.zero_()[::2].neg_(),
    "all equal but one": lambda x: x.fill_(7.0)[1099].fill_(8.0),
    "half forbidden": lambda x: x[:1030].fill_(-torch.inf),
    "the ends of float32": lambda x: x.mul_(1e38),
    "subnormal": lambda x: x.mul_(1e-42),
    "near one another": lambda x: x.mul_(1e-6).add_(1000),
    "a peak over the smallest masses": lambda x: x.uniform_(-36, -32)[77].fill_(0.0),
    "a staircase": lambda x: x.copy_(torch.arange(len(x)).div(3, rounding_mode="floor").mul(-0.34657359)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_ENTRIES", 7 * 300)  # some lists are written, others are too long
    logits = torch.randn(7, 1100, generator=torch.Generator().manual_seed(3))
    for i in range(6):
        HOSTILE[name](logits[i])
    rows = rows_of(logits)
    rows.temperature[:] = torch.tensor([0.0, 1.0, 1.0, 1.0, 50.0, 0.7, 1.0])
    rows.top_k[:] = torch.tensor([0, 0, 50, 0, 1099, 1, 0])
    rows.top_p[:] = torch.tensor([1.0, 1.0, 0.9, 0.5, 1.0, 0.1, 0.9999])
    rows.check()


@pytest.mark.parametrize("temperature", [5e-324, 1e-45, 1e-30, 1e300, torch.inf])
@pytest.mark.parametrize("scale", [1e-42, 1.0, 1e37])
def test_any_positive_temperature(temperature: float, scale: float) -> None:
    rows = rows_of(torch.randn(3, 300, generator=torch.Generator().manual_seed(2)) * scale, temperature=temperature)
    rows.top_k[1], rows.top_p[2] = 20, 0.7
    rows.check()


@pytest.mark.parametrize("name", ["temperature", "min_p", "top_p"])
def test_parameters_out_of_range_give_a_token_in_range(name: str) -> None:
    values = torch.tensor([0.0, torch.nan, -1.0, 2.0, torch.inf, -torch.inf])
    rows = rows_of(torch.randn(6, 1100, generator=torch.Generator().manual_seed(4)), top_k=5)
    want = rows.check()[0]
    getattr(rows, name)[1:] = values[1:]
    tokens, broken = rows.sample()
    assert tokens[0] == want
    assert not broken.any()
    assert ((tokens >= 0) & (tokens < 1100)).all()
    if name == "top_p":
        rows.top_p[3:5] = 1.0
        assert rows.sample()[0].tolist() == tokens.tolist()


@pytest.mark.parametrize("entries", [39, 40, 41])
def test_a_list_that_just_fits(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_ENTRIES", entries)
    logits = torch.full((1, 1100), -torch.inf)
    logits[0, torch.randperm(1100, generator=torch.Generator().manual_seed(1))[:40]] = 0.0
    rows_of(logits, top_p=0.6).check()


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.zeros(5, 2100)
    logits[0, [1030, 2050]] = 1.0
    logits[1] = -0.0
    logits[1, 9] = 0.0
    logits[2] = -torch.inf
    logits[3, [5, 700]] = torch.nan
    logits[4, [700, 1500]] = torch.inf
    tokens, broken = rows_of(logits, temperature=0.0).sample()
    assert tokens.tolist() == [1030, 0, 0, 5, 700]
    assert broken.tolist() == [False, False, True, True, True]


def test_nothing_to_do_and_rows_apart() -> None:
    tokens, broken = rows_of(torch.zeros(0, 5)).sample()
    assert (len(tokens), len(broken)) == (0, 0)
    wide = torch.randn(4, 2 * 1100, generator=torch.Generator().manual_seed(8))
    for logits in (wide[:, :1100], wide[:, 1::2], wide[::2, 3:]):
        rows_of(logits, top_p=0.9).check()


@triton.jit
def _exp(x, y, OCTAVES: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y + at, exp_of_minus(near(tl.load(x + at)), OCTAVES))


@pytest.mark.parametrize("octaves", [0, 44, 61])
def test_exp_is_within_a_unit_in_the_last_place(octaves: int) -> None:
    x = np.concatenate(([0.0, np.inf, 1e300, 60.0, 5e-324, 1e-17], np.random.default_rng(1).uniform(0, 44, 4090)))
    y = torch.empty(4096, dtype=torch.float64, device=DEVICE)
    _exp[(1,)](torch.from_numpy(x).to(DEVICE), y, octaves, 4096)
    want = np.exp(-np.minimum(x, 60.0).astype(np.longdouble)) * np.longdouble(2) ** octaves
    got = y.cpu().numpy()
    assert (np.abs(got - want) <= np.spacing(got)).all()
    assert got[0] == got[4] == 2.0**octaves


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 8, 128])
@pytest.mark.parametrize("entries", [0, 1 << 21])
def test_true_vocabulary(dtype: torch.dtype, batch: int, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST_ENTRIES", entries)
    vocab = 201_088
    generator = torch.Generator().manual_seed(batch)
    pick = lambda *values: torch.tensor(values)[torch.randint(len(values), (batch,), generator=generator)]  # noqa: E731
    for scale in (0.3, 2.5):
        rows = Rows(
            (torch.randn(batch, vocab, generator=generator) * scale).to(dtype),
            pick(0.0, 0.6, 1.0, 1.5).double(),
            pick(0.0, 0.0, 0.05).double(),
            pick(0, 0, 1, 50, 5000, 150_000),
            pick(1.0, 1.0, 0.1, 0.9, 0.95, 0.9999).double(),
            torch.randint(1 << 62, (batch,), generator=generator),
            torch.randint(1 << 20, (batch,), generator=generator),
        )
        rows.check()


@pytest.mark.gpu
def test_sampling_is_captured_and_replayed() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = rows_of(torch.randn(8, 201_088, generator=generator) * 2, top_p=0.9)
    held = [value.to(DEVICE) for value in rows.__dict__.values()]
    sample(*held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens, _ = sample(*held)
    for seed in range(20):
        rows = rows_of(torch.randn(8, 201_088, generator=generator) * 2, top_p=0.9, top_k=40 * (seed % 2), seed=seed)
        for there, here in zip(held, rows.__dict__.values(), strict=True):
            there.copy_(here)
        graph.replay()
        assert tokens.tolist() == rows.expected()[0].tolist()
