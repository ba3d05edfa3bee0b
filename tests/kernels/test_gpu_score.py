"""Scores on the GPU (here: Triton's interpreter) against numpy in float64 and the twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu import sample_split
from yardmaster.kernels.gpu.score import score
from yardmaster.kernels.reference.sampling import score as twin

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SOME = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def empty(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = real(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 987654321)

    monkeypatch.setattr(torch, "empty", empty)


def check(logits: torch.Tensor, target: torch.Tensor, k: int) -> None:
    got = score(logits.to(DEVICE), target.to(DEVICE), k)
    want = twin(logits, target, k)
    assert [(x.dtype, x.shape) for x in got] == [(x.dtype, x.shape) for x in want]
    got = type(got)(*(x.cpu() for x in got))
    close = {"rtol": 1e-6, "atol": 1e-7, "equal_nan": True}
    torch.testing.assert_close(got.logprob_N, want.logprob_N, **close)
    assert got.rank_N.tolist() == want.rank_N.tolist()
    torch.testing.assert_close(got.top_logprobs_NK, want.top_logprobs_NK, **close)
    for i, row in enumerate(logits.float().numpy()):
        order = np.lexsort((np.arange(len(row)), -row, ~np.isnan(row)))
        assert got.top_ids_NK[i].tolist() == order[: got.top_ids_NK.shape[1]].tolist()


@SOME
@given(
    rows=st.integers(0, 3),
    vocab=st.sampled_from([1, 2, 17, 1024, 1500, 5003]),
    k=st.integers(0, 5),
    coarse=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    blocks=st.sampled_from([2, 256]),
    seed=st.integers(0, 2**31),
)
def test_scores(rows: int, vocab: int, k: int, coarse: bool, dtype: torch.dtype, blocks: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * 5
    if coarse:
        logits = logits.round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_split, "MOST_BLOCKS", blocks)
        check(logits.to(dtype), torch.randint(vocab, (rows,), generator=generator), k)


def test_more_best_tokens_than_tokens() -> None:
    check(torch.tensor([[3.0, 1.0, 3.0, -torch.inf, -0.0, 0.0]]), torch.tensor([4]), 20)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, torch.nan), (1030, torch.inf), (1030, 40.0), (slice(None), -torch.inf), (slice(1, None), -torch.inf)],
    ids=str,
)
def test_hostile_rows_disturb_no_other(at: int | slice, value: float) -> None:
    logits = torch.randn(3, 1100, generator=torch.Generator().manual_seed(1))
    logits[1, at] = value
    for target in (0, 1030):
        check(logits, torch.full((3,), target), 2)


def test_what_is_nearly_certain_keeps_its_digits() -> None:
    logits = torch.zeros(2, 1500)
    logits[:, 1400] = torch.tensor([25.0, 60.0])
    scores = score(logits.to(DEVICE), torch.tensor([1400, 1400], device=DEVICE), 1)
    want = -np.log1p(1499 * np.exp(np.array([-25.0, -60.0])))
    np.testing.assert_allclose(scores.logprob_N.cpu().numpy(), want, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("target", [-1, 1100, 1 << 40, -(1 << 40)])
def test_a_target_outside_of_the_vocabulary_reads_nothing(target: int) -> None:
    logits = torch.randn(2, 1100, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    scores = score(logits, torch.tensor([target, 7], device=DEVICE), 2)
    assert scores.logprob_N.isnan().tolist() == [True, False]
    assert scores.rank_N[0] == 1


def test_rows_apart() -> None:
    wide = torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    check(wide[::2, 3:], torch.tensor([1, 2]), 3)
    check(wide[:, ::2], torch.tensor([1, 2, 3, 4]), 3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 256])
def test_true_vocabulary(dtype: torch.dtype, rows: int) -> None:
    logits = (torch.randn(rows, 201_088, generator=torch.Generator().manual_seed(rows)) * 3).to(dtype)
    check(logits, torch.randint(201_088, (rows,), generator=torch.Generator().manual_seed(0)), 20)
