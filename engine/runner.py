"""One rank's model, cache and sampler behind `Executor`: a plan goes in, the leader gets tokens out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..cache.store import KVStore
from ..kernels.sampling import score
from ..layers.sampler import SampledTokens, Sampler
from ..models.gpt_oss import GptOss
from ..parallel.collectives import Group
from .decode_graph import DecodeGraphs
from .messages import TokenLogprob
from .plan import StepPlan
from .sampling_batch import sampling_batch, scores_to_logprobs, to_logprobs
from .sampling_params import MAX_LOGPROBS
from .step import Done, Launched, SamplingRow, StepOutput
from .step_builder import StepBuilder
from .step_clock import StepClock

SCORE_ROWS = 256  # prompt positions whose logits are held at once

NOTHING = Done(StepOutput([], []))


class ModelRunner:
    """Runs steps. Every rank of the world calls `launch` for each one; only leaders sample.

    `share_tokens`: steps are planned before the tokens of the one before are known to any host, so all ranks of the
    group must have them. `graphs` takes the steps that it can.
    """

    def __init__(
        self,
        model: GptOss,
        store: KVStore,
        builder: StepBuilder,
        tp: Group,
        *,
        share_tokens: bool = False,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.builder = builder
        self.tp = tp
        self.leader = tp.index == 0
        self.share_tokens = share_tokens
        self.graphs = graphs
        self.sampler = Sampler()
        self.clock = StepClock(builder.device)

    @torch.inference_mode()
    def launch(self, plan: StepPlan, rows: Sequence[SamplingRow]) -> Launched:
        """See `step.Executor`. Collective inside the tensor-parallel group, and over the experts' ranks."""
        self.clock.begin()
        launched = self._decode(plan, rows) if self.graphs and self.graphs.takes(plan) else self._step(plan, rows)
        self.clock.end()
        return launched

    def rest(self) -> None:
        self.clock.rest()

    def _decode(self, plan: StepPlan, rows: Sequence[SamplingRow]) -> Launched:
        """A captured step. What its sampler cannot do is done once more behind it, from the same logits."""
        assert self.graphs is not None
        decoded = self.graphs.run(plan, rows)
        if not self.leader and not self.share_tokens:
            return NOTHING
        if not any(row.beyond_draw for row in rows):
            return _Launched(SampledTokens(decoded.token_ids_B, decoded.broken_B), rows) if self.leader else NOTHING
        return self._sample(decoded.logits_BV, decoded.slots_B, rows)

    def _step(self, plan: StepPlan, rows: Sequence[SamplingRow]) -> Launched:
        step, slots_S = self.builder.build(plan)
        states_TD = self.model(step, self.store)
        prompt_logprobs = self._score_prompts(plan, states_TD)
        if not len(slots_S):
            return Done(StepOutput([], [], prompt_logprobs))
        logits_SV = self.model.logits(states_TD[step.logit_rows_S])
        return self._sample(logits_SV, slots_S, rows, prompt_logprobs)

    def _sample(
        self,
        logits_SV: torch.Tensor,
        slots_S: torch.Tensor,
        rows: Sequence[SamplingRow],
        prompt_logprobs: dict[int, list[TokenLogprob]] | None = None,
    ) -> Launched:
        launched: Launched = NOTHING
        token_ids_S = torch.empty_like(slots_S)
        if self.leader:
            batch = sampling_batch(rows, logits_SV.shape[-1], logits_SV.device)
            sampled = self.sampler.sample(logits_SV, batch)
            token_ids_S = sampled.token_ids_B
            launched = _Launched(sampled, rows, prompt_logprobs or {})
        if self.share_tokens:
            self.builder.remember(slots_S, self.tp.broadcast_(token_ids_S))
        return launched

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


@dataclass(slots=True)
class _Launched:
    """A step whose tokens are on their way to the host."""

    sampled: SampledTokens
    rows: Sequence[SamplingRow]
    prompt_logprobs: dict[int, list[TokenLogprob]] = field(default_factory=dict)
    _wait: Callable[[], SampledTokens] = field(init=False)

    def __post_init__(self) -> None:
        self._wait = self.sampled.fetch()

    def output(self) -> StepOutput:
        sampled = self._wait()
        broken = frozenset(i for i, bad in enumerate(sampled.broken_B.tolist()) if bad)
        token_ids = sampled.token_ids_B.tolist()
        return StepOutput(token_ids, to_logprobs(sampled, self.rows), self.prompt_logprobs, broken)
