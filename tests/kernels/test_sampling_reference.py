"""The sampling functions against numpy in float64, against transformers' warpers, and against chance itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from yardmaster.kernels.reference import sampling

VOCABS = (1, 2, 17, 1009, 1499)  # the last one is wider than the candidate list


def normal(rows: int, vocab: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def cut(logits: torch.Tensor, temperature: float, min_p: float, top_k: int, top_p: float) -> torch.Tensor:
    """The distribution that is sampled from, float64."""
    n, vocab = logits.shape
    full = lambda value, dtype: torch.full((n,), value, dtype=dtype)  # noqa: E731
    mass = sampling.masses(logits, full(temperature, torch.float64), full(min_p, torch.float64))
    k = top_k if 0 < top_k < vocab else vocab
    mass = sampling.truncate(mass, full(k, torch.int64), full(top_p, torch.float64))
    return mass.double() / mass.sum(-1, keepdim=True)


def naive(row: np.ndarray, temperature: float, min_p: float, top_k: int, top_p: float) -> tuple[np.ndarray, float]:
    """The same for one row, token by token; and how near the edge of the nucleus came to `top_p`."""
    z = row.astype(np.float64) / temperature
    p = np.exp(z - z.max())
    p /= p.sum()
    p[p < min_p * p.max()] = 0.0
    if 0 < top_k < len(p):
        p[p < np.sort(p)[-top_k]] = 0.0
    p /= p.sum()
    kept, total, margin = np.zeros_like(p), 0.0, 1.0
    for token in np.argsort(-p, kind="stable"):
        margin = min(margin, abs(total - top_p))
        if total >= top_p and kept.any():
            break
        kept[token] = p[token]
        total += p[token]
    return kept / kept.sum(), margin


params = st.tuples(
    st.one_of(st.floats(0.05, 3.0), st.floats(1e-6, 100.0)),
    st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-6, 0.5)),
    st.one_of(st.just(0), st.integers(1, 40), st.integers(1, 2000)),
    st.one_of(st.just(1.0), st.floats(1e-9, 1.0, exclude_min=True)),
)


@settings(max_examples=120)
@given(params, st.sampled_from(VOCABS), st.integers(0, 2**31), st.booleans())
def test_filters_match_numpy(p: tuple, vocab: int, seed: int, coarse: bool) -> None:
    logits = normal(3, vocab, seed)
    if coarse:  # many ties, as bfloat16 logits have them
        logits = logits.mul(2).round() / 2
    got = cut(logits, *p).numpy()
    for row, line in zip(logits.numpy(), got, strict=True):
        want, margin = naive(row, *p)
        if margin > 1e-9 or p[3] == 1.0:
            np.testing.assert_allclose(line, want, atol=1e-9)
        assert line.sum() == pytest.approx(1.0)


@settings(max_examples=60)
@given(params, st.sampled_from(VOCABS[1:]), st.integers(0, 2**31))
def test_filters_match_transformers(p: tuple, vocab: int, seed: int) -> None:
    temperature, min_p, top_k, top_p = p
    logits = normal(2, vocab, seed)
    assume(all(len(row.unique()) == vocab for row in logits))  # of equal ones ours keeps the first, theirs the last
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if min_p > 0.0:
        warpers.append(MinPLogitsWarper(min_p=min_p))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k=top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p=top_p))
    want = warpers(torch.zeros(2, 1, dtype=torch.long), logits.double()).softmax(-1)  # type: ignore[arg-type]
    got = cut(logits, temperature, min_p, top_k, top_p)
    near_edge = any(naive(row.numpy(), *p)[1] < 1e-9 for row in logits)
    if not near_edge:
        torch.testing.assert_close(got, want, atol=1e-9, rtol=0)


def test_top_k_keeps_ties_and_top_p_breaks_them_by_id() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    assert (cut(logits, 1.0, 0.0, 2, 1.0) > 0).tolist() == [[False, True, True, True, False]]
    assert (cut(logits, 1.0, 0.0, 3, 0.5) > 0).tolist() == [[False, True, True, False, False]]
    assert (cut(logits, 1.0, 0.0, 0, 1e-300) > 0).tolist() == [[False, True, False, False, False]]


def test_more_ties_than_candidates() -> None:
    logits = torch.zeros(2, 5003)
    logits[1, 4999] = 1.0
    kept = cut(logits, 1.0, 0.0, 7, 1.0) > 0
    assert kept.sum(-1).tolist() == [5003, 5003]
    kept = cut(logits, 1.0, 0.0, 7, 0.5) > 0
    assert kept[0].nonzero().squeeze(-1).tolist() == list(range(2502))
    assert kept[1, 4999]
    assert kept[1].sum() == 1 + math.ceil(0.5 * (5002 + math.e) - math.e)


def test_penalty_matches_transformers_and_the_openai_formula() -> None:
    logits = normal(3, 101, 5)
    tokens = torch.tensor([[4, 4, 7], [100, 0, 3], [5, 5, 5]])
    want = RepetitionPenaltyLogitsProcessor(1.7)(tokens, logits.clone())
    rows, ids = zip(*[(i, t) for i, line in enumerate(tokens.tolist()) for t in set(line)], strict=True)
    counts = [tokens[i].tolist().count(t) for i, t in zip(rows, ids, strict=True)]
    rows_P, ids_P, count_P = (torch.tensor(x) for x in (rows, ids, counts))
    one, none = torch.full((3,), 1.7), torch.zeros(3)
    got = logits.clone()
    sampling.penalize(got, rows_P, ids_P, count_P, one, none, none)
    torch.testing.assert_close(got, want)
    frequency, presence = torch.tensor([0.5, 0.0, -2.0]), torch.tensor([0.0, 1.5, 0.25])
    sampling.penalize(got, rows_P, ids_P, count_P, torch.ones(3), frequency, presence)
    for row, token, count in zip(rows, ids, counts, strict=True):
        want[row, token] -= frequency[row] * count + presence[row]
    torch.testing.assert_close(got, want)


def splitmix(x: int) -> int:
    word = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
    return x ^ (x >> 31)


@settings(max_examples=50)
@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 1 << 20))
def test_uniform_is_the_documented_hash(seed: int, index: int) -> None:
    word = (1 << 64) - 1
    golden = 0x9E3779B97F4A7C15
    bits = splitmix(splitmix((seed + golden) & word) ^ splitmix((index * golden + 0xBF58476D1CE4E5B9) & word))
    got = sampling.uniform(torch.tensor([seed]), torch.tensor([index]))
    assert got.item() == (bits >> 11) / 2**53


def test_uniform_is_uniform_over_seeds_and_over_positions() -> None:
    n, bins = 40_000, 50
    count = torch.arange(n)
    for seed, index in ((count, torch.zeros(n, dtype=torch.long)), (torch.full((n,), 7), count)):
        u = sampling.uniform(seed, index)
        assert 0.0 <= u.min() < u.max() < 1.0
        chi2 = (torch.histc(u, bins, 0, 1) - n / bins).square().sum() * bins / n
        assert chi2 < 100  # 49 degrees of freedom: p of a fair hash is 2e-5
        assert abs(torch.corrcoef(torch.stack((u[1:], u[:-1])))[0, 1]) < 0.02


def test_draws_follow_the_distribution() -> None:
    logits = normal(1, 23, 11, scale=1.0)
    n = 40_000
    seeds = torch.arange(n)
    tokens = sampling.draw(
        logits,
        torch.zeros(n, dtype=torch.long),
        torch.full((n,), 0.8, dtype=torch.float64),
        torch.zeros(n, dtype=torch.float64),
        torch.full((n,), 17),
        torch.full((n,), 0.95, dtype=torch.float64),
        sampling.uniform(seeds, torch.full((n,), 3)),
        n,
    )
    want, _ = naive(logits[0].numpy(), 0.8, 0.0, 17, 0.95)
    seen = np.bincount(tokens.numpy(), minlength=23)
    assert not seen[want == 0].any()
    live = want > 0
    chi2 = ((seen[live] - n * want[live]) ** 2 / (n * want[live])).sum()
    assert chi2 < 60  # at most 16 degrees of freedom: 1e-6


@pytest.mark.parametrize("vocab", [1, 2, 17, 201_088])
def test_the_ends_of_the_unit_interval_stay_in_the_support(vocab: int) -> None:
    logits = normal(4, vocab, vocab)
    logits[:, : vocab // 3] = -math.inf
    logits[:, vocab - vocab // 3 :] = -math.inf
    logits[3] = logits[3] * 1e4
    mass = sampling.masses(logits, torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    for u in (0.0, 5e-324, 0.5, 1.0 - 2.0**-53):
        tokens = sampling.pick(mass, torch.full((4,), u, dtype=torch.float64))
        assert (mass.gather(-1, tokens[:, None]) > 0).all()


def test_pick_matches_a_search_by_hand() -> None:
    mass = torch.tensor([[0, 3, 0, 1, 4, 0]])
    got = [sampling.pick(mass, torch.tensor([i / 8 + 1e-9], dtype=torch.float64)).item() for i in range(8)]
    assert got == [1, 1, 1, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-5, 100.0])
def test_any_positive_temperature(temperature: float) -> None:
    logits = normal(2, 17, 3) * 1e30
    mass = sampling.masses(logits, torch.full((2,), temperature, dtype=torch.float64), torch.zeros(2))
    assert (mass.argmax(-1) == logits.argmax(-1)).all()
    assert (mass >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocab", "k"), [(0, 5, 2), (1, 1, 20), (3, 2, 0), (5, 17, 4), (7, 1009, 20)])
def test_score_matches_numpy(
    dtype: torch.dtype, rows: int, vocab: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "BLOCK_ELEMENTS", 2 * vocab)  # several blocks, the last one short
    logits = normal(rows, vocab, rows).to(dtype)
    target = torch.randint(vocab, (rows,), generator=torch.Generator().manual_seed(1))
    scores = sampling.score(logits, target, k)
    assert scores.top_ids_NK.shape == (rows, min(k, vocab))
    for i, row in enumerate(logits.double().numpy()):
        logprobs = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert scores.logprob_N[i].item() == pytest.approx(logprobs[target[i]], abs=1e-5)
        assert scores.rank_N[i].item() == 1 + (row > row[target[i]]).sum()
        ids = scores.top_ids_NK[i].numpy()
        assert len(set(ids)) == len(ids)
        np.testing.assert_allclose(scores.top_logprobs_NK[i].numpy(), np.sort(logprobs)[::-1][: len(ids)], atol=1e-5)
        np.testing.assert_allclose(logprobs[ids], scores.top_logprobs_NK[i].numpy(), atol=1e-5)


@pytest.mark.parametrize("top_k", [1023, 1024, 1025, 1200, 1498, 1499])
@pytest.mark.parametrize("top_p", [1.0, 0.99])
def test_top_k_beyond_the_candidates(top_k: int, top_p: float) -> None:
    logits = normal(1, 1499, top_k, scale=0.5)
    want, margin = naive(logits[0].numpy(), 2.0, 0.0, top_k, top_p)
    assert margin > 1e-9 or top_p == 1.0
    np.testing.assert_allclose(cut(logits, 2.0, 0.0, top_k, top_p)[0].numpy(), want, atol=1e-9)


@pytest.mark.parametrize("num_cut", [0, 1, 4, 5, 7])
def test_blocks_do_not_show(num_cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n, vocab = 7, 53
    logits = normal(9, vocab, 8)
    generator = torch.Generator().manual_seed(num_cut)
    args = (
        torch.randperm(9, generator=generator)[:n],
        torch.rand(n, generator=generator, dtype=torch.float64) + 0.5,
        torch.rand(n, generator=generator, dtype=torch.float64) / 9,
        torch.randint(1, 5, (num_cut,), generator=generator),
        torch.rand(num_cut, generator=generator, dtype=torch.float64),
        torch.rand(n, generator=generator, dtype=torch.float64),
        num_cut,
    )
    whole = sampling.draw(logits, *args)
    for rows in (1, 2, 3):
        monkeypatch.setattr(sampling, "BLOCK_ELEMENTS", rows * vocab)
        assert sampling.draw(logits, *args).tolist() == whole.tolist()
