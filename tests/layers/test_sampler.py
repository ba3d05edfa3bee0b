"""The sampler from rows to tokens: a naive row-by-row oracle, batch invariance, broken rows, log-probabilities."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yardmaster.engine.sampling_batch import LOGPROB_FLOOR, sampling_batch, scores_to_logprobs, to_logprobs
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.step import SamplingRow
from yardmaster.kernels.reference.sampling import score, uniform
from yardmaster.layers.sampler import Sampler, SamplingBatch, flatten, unflatten


def sample(logits: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    before = logits.clone()
    sampled = Sampler().sample(logits, sampling_batch(rows, logits.shape[-1], "cpu"))
    torch.testing.assert_close(logits, before, rtol=0, atol=0, equal_nan=True)
    assert sampled.token_ids_B.dtype == torch.int64
    return sampled.token_ids_B.tolist()


def naive(logits: np.ndarray, row: SamplingRow) -> tuple[int, float]:
    """The token of one row, step by step; and how near the draw came to an edge, where rounding may decide."""
    p, x = row.params, logits.astype(np.float64)
    if len(row.output_token_ids) < p.min_tokens:
        for token in {*row.eos_token_ids, *p.stop_token_ids}:
            if 0 <= token < len(x):
                x[token] = -math.inf
    for token, bias in p.logit_bias.items():
        if 0 <= token < len(x):
            x[token] += bias
    for token in {*row.prompt_token_ids, *row.output_token_ids}:
        x[token] = x[token] / p.repetition_penalty if x[token] > 0 else x[token] * p.repetition_penalty
    for token in set(row.output_token_ids):
        x[token] -= p.frequency_penalty * list(row.output_token_ids).count(token) + p.presence_penalty
    best = np.sort(x)[::-1]
    if p.temperature == 0:
        return int(x.argmax()), 1.0 if len(x) == 1 else best[0] - best[1]
    z = np.exp((x - x.max()) / p.temperature)
    z[z < p.min_p] = 0
    margin = np.abs(z - p.min_p).min() if p.min_p else 1.0
    if 0 < p.top_k < len(z):
        z[z < np.sort(z)[-p.top_k]] = 0
    z /= z.sum()
    order = np.argsort(-z, kind="stable")
    before = np.cumsum(z[order]) - z[order]
    if p.top_p < 1:
        margin = min(margin, np.abs(before - p.top_p).min())
        z[order[(before >= p.top_p) & (np.arange(len(z)) > 0)]] = 0
    edges = np.cumsum(z / z.sum())
    u = uniform(torch.tensor([row.seed]), torch.tensor([len(row.output_token_ids)])).item()
    return int(np.searchsorted(edges, u, side="right")), min(margin, np.abs(edges - u).min())


def some(kind: st.SearchStrategy, neutral: float | int) -> st.SearchStrategy:
    return st.one_of(st.just(neutral), kind)


@st.composite
def sampling_rows(draw: st.DrawFn, vocab: int) -> SamplingRow:
    token = st.integers(0, vocab - 1)
    any_token = st.integers(-1, vocab + 3)
    params = SamplingParams(
        max_tokens=100,
        min_tokens=draw(some(st.integers(0, 8), 0)),
        temperature=draw(st.one_of(st.just(0.0), st.just(1.0), st.floats(0.01, 5.0))),
        top_k=draw(some(st.integers(-1, vocab + 2), 0)),
        top_p=draw(some(st.floats(0.01, 1.0), 1.0)),
        min_p=draw(some(st.floats(0.0, 1.0), 0.0)),
        repetition_penalty=draw(some(st.floats(0.5, 2.0), 1.0)),
        presence_penalty=draw(some(st.floats(-2.0, 2.0), 0.0)),
        frequency_penalty=draw(some(st.floats(-2.0, 2.0), 0.0)),
        logit_bias=draw(st.dictionaries(any_token, st.floats(-100, 100, width=32), max_size=3)),
        stop_token_ids=tuple(draw(st.lists(any_token, max_size=2))) if vocab > 2 else (),
        logprobs=draw(st.one_of(st.none(), st.integers(0, 5))),
    )
    return SamplingRow(
        params,
        draw(st.lists(token, max_size=6)),
        draw(st.lists(token, max_size=6)),
        draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        (vocab - 1,) if vocab > 2 else (),
    )


@settings(max_examples=150)
@given(st.data(), st.sampled_from([1, 2, 17, 1009, 1499]), st.integers(0, 2**31))
def test_each_row_matches_the_oracle_alone_and_in_any_order(data: st.DataObject, vocab: int, seed: int) -> None:
    rows = data.draw(st.lists(sampling_rows(vocab), min_size=1, max_size=6))
    logits = torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(seed)) * 4
    tokens = sample(logits, rows)
    for i, row in enumerate(rows):
        want, margin = naive(logits[i].numpy(), row)
        assert tokens[i] == want or margin < 1e-5
        assert sample(logits[i : i + 1], [row]) == [tokens[i]]
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    assert sample(logits[order], [rows[i] for i in order]) == [tokens[i] for i in order]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_does_not_depend_on_the_batch_at_full_vocabulary(dtype: torch.dtype) -> None:
    vocab = 201_088
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"top_p": 0.9, "temperature": 0.5},
        {"top_p": 0.9999, "temperature": 2.0},  # wider than the candidates: the sorted path
        {"top_k": 50, "top_p": 0.95},
        {"top_k": 3000},
        {"min_p": 0.05},
        {"presence_penalty": 1.5, "logit_bias": {3: 50.0}},
        {},
    ]
    rows = [SamplingRow(SamplingParams(**kind), [1, 2], [3, 3], 1234 + i) for i, kind in enumerate(kinds)]
    logits = (torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(0)) * 2).to(dtype)
    together = sample(logits, rows)
    assert [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)] == together
    assert sample(logits.flip(0), rows[::-1]) == together[::-1]
    assert sample(logits[1:2].expand(30, -1), [rows[1]] * 30) == [together[1]] * 30  # several blocks


def test_the_token_follows_seed_and_position_alone() -> None:
    logits = torch.zeros(1, 1009)
    params = SamplingParams()

    def at(seed: int, position: int) -> int:
        return sample(logits, [SamplingRow(params, [5], list(range(position)), seed)])[0]

    assert at(1, 4) == sample(logits, [SamplingRow(params, [7, 8], [9] * 4, 1)])[0]
    assert len({at(seed, 0) for seed in range(50)}) > 40
    assert len({at(3, position) for position in range(50)}) > 40


def test_noise_far_below_the_edges_changes_nothing() -> None:
    rows = [SamplingRow(SamplingParams(top_p=0.95), [], [], seed) for seed in range(200)]
    logits = torch.randn(200, 1009, generator=torch.Generator().manual_seed(2)) * 2
    noisy = logits + 1e-6 * torch.randn(200, 1009, generator=torch.Generator().manual_seed(3))
    assert sum(a != b for a, b in zip(sample(logits, rows), sample(noisy, rows), strict=True)) <= 1


def test_min_tokens_holds_back_the_end() -> None:
    logits = torch.zeros(3, 17)
    logits[:, [3, 4]] = torch.tensor([50.0, 40.0])
    rows = [
        SamplingRow(SamplingParams(temperature=t, min_tokens=2, stop_token_ids=(4, 99)), [], [0] * n, 0, (3,))
        for t, n in ((0.0, 1), (1.0, 1), (0.0, 2))
    ]
    greedy, drawn, late = sample(logits, rows)
    assert greedy == 0
    assert drawn not in (3, 4)
    assert late == 3


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("vocab", [2, 17, 1499])
def test_a_broken_row_is_told_and_disturbs_no_other(poison: float, whole: bool, vocab: int) -> None:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"top_k": 3},
        {"top_p": 0.5},
        {"min_p": 0.3, "repetition_penalty": 2.0},
    ]
    rows = [SamplingRow(SamplingParams(**kind, logprobs=2), [1], [1, 0], 9) for kind in kinds]
    clean = torch.randn(2 * len(rows), vocab, generator=torch.Generator().manual_seed(4))
    want = sample(clean, rows * 2)
    logits = clean.clone()
    if whole:
        logits[: len(rows)] = poison
    else:
        logits[: len(rows), vocab // 2] = poison
    sampled = Sampler().sample(logits, sampling_batch(rows * 2, vocab, "cpu"))
    tokens = sampled.token_ids_B.tolist()
    assert tokens[len(rows) :] == want[len(rows) :]
    assert all(0 <= token < vocab for token in tokens)
    broken = whole or poison != -math.inf
    assert sampled.broken_B.tolist() == [broken] * len(rows) + [False] * len(rows)
    for entry in to_logprobs(sampled, rows * 2):
        assert entry is not None
        assert all(math.isfinite(value) for value in (entry.logprob, *(logprob for _, logprob in entry.top)))


def test_all_forbidden_is_broken_not_a_crash() -> None:
    row = SamplingRow(SamplingParams(min_tokens=1, stop_token_ids=(0, 1)), [], [], 0)
    sampled = Sampler().sample(torch.zeros(1, 2), sampling_batch([row], 2, "cpu"))
    assert sampled.broken_B.tolist() == [True]
    assert sampled.token_ids_B.item() in (0, 1)


def test_logprobs_are_the_models_own() -> None:
    """Whatever bias, penalty and temperature do to the choice."""
    vocab = 101
    logits = torch.randn(4, vocab, generator=torch.Generator().manual_seed(5)) * 3
    counts = [3, None, 0, 5]
    rows = [
        SamplingRow(SamplingParams(temperature=0.7, logprobs=k, logit_bias={7: 100.0}, top_k=1), [1], [2], 0)
        for k in counts
    ]
    sampled = Sampler().sample(logits, sampling_batch(rows, vocab, "cpu")).fetch()()
    entries = to_logprobs(sampled, rows)
    for k, entry, row in zip(counts, entries, logits.double().log_softmax(-1), strict=True):
        if k is None:
            assert entry is None
            continue
        assert entry is not None
        assert entry.token_id == 7
        assert entry.logprob == pytest.approx(row[7].item(), abs=1e-5)
        assert entry.rank == 1 + (row > row[7]).sum().item()
        assert [token for token, _ in entry.top] == row.topk(k).indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(row.topk(k).values.tolist(), abs=1e-5)
    assert to_logprobs(sampled, rows)[1] is None


def test_prompt_scores() -> None:
    logits = torch.tensor([[0.0, -math.inf, 2.0], [math.nan] * 3])
    entries = scores_to_logprobs(score(logits, torch.tensor([1, 0]), 2), [1, 0], 2)
    assert entries[0].logprob == LOGPROB_FLOOR
    assert entries[0].rank == 3
    assert [token for token, _ in entries[0].top] == [2, 0]
    assert entries[1].logprob == LOGPROB_FLOOR


def test_one_transfer_brings_back_every_part() -> None:
    parts = [
        torch.tensor([0, 201_087, 5]),
        torch.tensor([True, False, True]),
        torch.tensor([-0.1, -1e30, -math.inf]),
        torch.arange(6).view(3, 2),
        torch.empty(3, 0),
    ]
    for part, back in zip(parts, unflatten(flatten(parts), [(part.shape, part.dtype) for part in parts]), strict=True):
        assert back.dtype == part.dtype
        assert torch.equal(back, part)


def test_nothing_to_sample() -> None:
    assert sample(torch.empty(0, 17), []) == []
    with pytest.raises(ValueError, match="2 sampling rows for 3 rows"):
        Sampler().sample(torch.zeros(3, 5), SamplingBatch(2))


def test_greedy_rows_cost_no_pass_over_their_tokens() -> None:
    class Untouchable(list):
        def __iter__(self) -> None:  # type: ignore[override]
            raise AssertionError("a row without penalties was read")

    rows = [SamplingRow(SamplingParams(temperature=t), Untouchable([1]), Untouchable([2]), 0) for t in (0.0, 1.0)]
    batch = sampling_batch(rows, 17, "cpu")
    assert batch.penalties is None
    assert batch.bias is None
    assert sampling_batch(rows[:1], 17, "cpu") == SamplingBatch(1)
