"""The sampler: logits of a step's last positions go in, one token a row comes out, with log-probabilities on demand.

The order is that of vLLM's v1 `Sampler` (its docstring, steps 1 to 8): log-probabilities of the raw logits, whatever
follows; forbidden tokens (min_tokens) and logit bias; repetition, frequency and presence penalties; greedy rows take
the maximum; the others temperature, min-p, top-k, top-p, choice. Penalties come before the temperature. Where vLLM
takes a temperature below 1e-5 for 0, only 0 is greedy here: the arithmetic bears any positive one.

Legend: B rows of the step, V vocabulary, N rows that draw, P entries of a sparse edit, L rows with log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..kernels.reference import sampling as kernels
from ..kernels.reference.sampling import Scores


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to single logits, float32; -inf forbids. At most a few entries a row, which may repeat."""

    rows_P: torch.Tensor
    ids_P: torch.Tensor
    values_P: torch.Tensor


@dataclass(frozen=True, slots=True)
class Penalties:
    """Tokens of the rows that have penalties, each once a row, and how often the output has them."""

    rows_P: torch.Tensor
    ids_P: torch.Tensor
    count_P: torch.Tensor
    repetition_B: torch.Tensor  # float32; 1 is none
    frequency_B: torch.Tensor
    presence_B: torch.Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """The rows that are not greedy. The first `num_cut` of them have a top-k or top-p that cuts."""

    rows_N: torch.Tensor
    temperature_N: torch.Tensor  # float64, above 0
    min_p_N: torch.Tensor  # float64
    top_k_N: torch.Tensor  # int64, V keeps all; num_cut of them
    top_p_N: torch.Tensor  # float64; num_cut of them
    seed_N: torch.Tensor
    index_N: torch.Tensor  # position of the token in the output
    num_cut: int


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """What the rows of one step ask for, on the device. A part that no row needs is None; indices are int64."""

    size: int
    bias: Bias | None = None
    penalties: Penalties | None = None
    draw: Draw | None = None
    score_rows_L: torch.Tensor | None = None
    num_top: int = 0  # the largest `logprobs` asked for


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """`token_ids_B` int64, always in range. `broken_B`: the row's best logit is no finite number, so that the token

    means nothing (a NaN of the model, or everything forbidden). `scores` are those of `score_rows_L`, in that order.
    """

    token_ids_B: torch.Tensor
    broken_B: torch.Tensor
    scores: Scores | None = None

    def cpu(self) -> SampledTokens:
        """The same on the host, by one transfer."""
        if self.token_ids_B.device.type == "cpu":
            return self
        ids, broken, *scores = move([self.token_ids_B, self.broken_B, *(self.scores or ())], "cpu")
        return SampledTokens(ids, broken, Scores(*scores) if scores else None)


class Sampler:
    """Has no state: a token depends on its row's logits, parameters, seed and output position, and on nothing else."""

    def sample(self, logits_BV: torch.Tensor, batch: SamplingBatch) -> SampledTokens:
        """Choose a token a row. `logits_BV` (any floating dtype) stay as they are.

        Raises ValueError when the batch is not of B rows. A row of NaN disturbs no other; see `SampledTokens`.
        """
        if logits_BV.shape[0] != batch.size:
            raise ValueError(f"{batch.size} sampling rows for {logits_BV.shape[0]} rows of logits")
        x_BV = logits_BV
        if batch.bias is not None or batch.penalties is not None:
            x_BV = logits_BV.to(torch.float32, copy=True)
        if batch.bias is not None:
            kernels.add_bias(x_BV, batch.bias.rows_P, batch.bias.ids_P, batch.bias.values_P)
        if batch.penalties is not None:
            p = batch.penalties
            kernels.penalize(x_BV, p.rows_P, p.ids_P, p.count_P, p.repetition_B, p.frequency_B, p.presence_B)
        best_B, token_ids_B = x_BV.max(-1)  # a NaN wins, so that one pass finds the token and the broken rows
        if batch.draw is not None:
            d = batch.draw
            token_ids_B[d.rows_N] = kernels.draw(
                x_BV,
                d.rows_N,
                d.temperature_N,
                d.min_p_N,
                d.top_k_N,
                d.top_p_N,
                kernels.uniform(d.seed_N, d.index_N),
                d.num_cut,
            )
        scores = None
        if batch.score_rows_L is not None:
            rows_L = batch.score_rows_L
            scores = kernels.score(logits_BV[rows_L], token_ids_B[rows_L], batch.num_top)
        return SampledTokens(token_ids_B, ~best_B.isfinite(), scores)


def move(parts: Sequence[torch.Tensor], device: str) -> list[torch.Tensor]:
    """Tensors to another device by one transfer, as float64: it holds token ids, ranks, flags and float32 exactly."""
    # Host synchronisation, when the device is the host: the scheduler needs the tokens.
    flat = torch.cat([part.flatten().double() for part in parts]).to(device)
    pieces = flat.split([part.numel() for part in parts])
    return [piece.view(part.shape).to(part.dtype) for piece, part in zip(pieces, parts, strict=True)]
