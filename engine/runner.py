"""One rank's model, cache and sampler behind `Executor`: a plan goes in, the leader gets tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..cache.store import KVStore
from ..kernels.reference.sampling import score
from ..layers.sampler import Sampler
from ..models.gpt_oss import GptOss
from .messages import TokenLogprob
from .plan import StepPlan
from .sampling_batch import sampling_batch, scores_to_logprobs, to_logprobs
from .sampling_params import MAX_LOGPROBS
from .step import SamplingRow, StepOutput
from .step_builder import StepBuilder

SCORE_ROWS = 256  # prompt positions whose logits are held at once

NOTHING = StepOutput([], [])


class ModelRunner:
    """Runs steps. Every rank of the world calls `execute` for each one; only leaders sample."""

    def __init__(self, model: GptOss, store: KVStore, builder: StepBuilder, *, leader: bool) -> None:
        self.model = model
        self.store = store
        self.builder = builder
        self.leader = leader
        self.sampler = Sampler()

    @torch.inference_mode()
    def execute(self, plan: StepPlan, rows: Sequence[SamplingRow]) -> StepOutput:
        """See `step.Executor`. Collective inside the tensor-parallel group, and over the experts' ranks."""
        step = self.builder.build(plan)
        states_TD = self.model(step, self.store)
        prompt_logprobs = self._score_prompts(plan, states_TD)
        if not len(step.logit_rows_S):
            return StepOutput([], [], prompt_logprobs)
        logits_SV = self.model.logits(states_TD[step.logit_rows_S])
        if not self.leader:
            return NOTHING
        sampled = self.sampler.sample(logits_SV, sampling_batch(rows, logits_SV.shape[-1], logits_SV.device)).cpu()
        broken = frozenset(i for i, bad in enumerate(sampled.broken_B.tolist()) if bad)
        return StepOutput(sampled.token_ids_B.tolist(), to_logprobs(sampled, rows), prompt_logprobs, broken)

    def _score_prompts(self, plan: StepPlan, states_TD: torch.Tensor) -> dict[int, list[TokenLogprob]]:
        """Log-probabilities of the prompt's tokens after each position of the shares that want them, by slot."""
        answer: dict[int, list[TokenLogprob]] = {}
        low = 0
        for share in plan.shares:
            if share.prompt_logprobs:
                targets = share.token_ids[1:] + ([] if share.following is None else [share.following])
                answer[share.slot] = self._score(states_TD[low : low + len(targets)], targets)
            low += share.count
        return answer

    def _score(self, states_ND: torch.Tensor, targets: list[int]) -> list[TokenLogprob]:
        scored: list[TokenLogprob] = []
        for first in range(0, len(targets), SCORE_ROWS):
            some = targets[first : first + SCORE_ROWS]
            logits_NV = self.model.logits(states_ND[first : first + SCORE_ROWS])
            if self.leader:
                ids_N = torch.tensor(some, device=logits_NV.device)
                scored += scores_to_logprobs(score(logits_NV, ids_N, MAX_LOGPROBS), some, MAX_LOGPROBS)
        return scored
