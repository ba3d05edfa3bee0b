"""What the leader hands to the executor beside the plan, and what comes back. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .messages import TokenLogprob
from .plan import StepPlan
from .sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One request whose next token is to be chosen in this step. The sequences are borrowed, not copied."""

    params: SamplingParams
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]
    seed: int  # params.seed, or one drawn at submission; the token at output position i depends on (seed, i) alone
    eos_token_ids: tuple[int, ...] = ()  # masked, with params.stop_token_ids, until min_tokens are out


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Of the shares with `sample`, in plan order. Prompt logprobs: by slot, of the tokens after each position computed

    in this step (position p's logits score token p + 1 of the prompt), for shares with `prompt_logprobs`.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]
    prompt_logprobs: dict[int, list[TokenLogprob]] = field(default_factory=dict)
    broken: frozenset[int] = frozenset()  # places in `token_ids` whose logits were no numbers: those requests end


class Executor(Protocol):
    """One rank's model, cache tensors and sampler."""

    def execute(self, plan: StepPlan, rows: Sequence[SamplingRow]) -> StepOutput:
        """Run one step. Collective: every rank of the world calls it for the same step, with its group's plan (it may

        be empty). `rows` are given on the leader, one per sampled share; followers pass () and get an empty output.
        """
