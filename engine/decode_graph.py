"""The decode step as one CUDA graph for each padded batch size: from three numbers a request to its sampled token.

A graph reads its inputs where they lay when it was captured, and takes everything else from tables on the device: its
pages, and the token that the step before has sampled. So a step costs the host one transfer and one launch. Rows of
padding stand at position -1: they read and write no cache and go to no expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..cache.store import KVStore
from ..kernels.sampling import sample
from ..models.gpt_oss import GptOss
from ..parallel.collectives import Group
from .plan import StepPlan
from .sampling_batch import draw_arrays
from .step import SamplingRow
from .step_builder import Rows, StepBuilder

# Runs something once and gives what runs it again, on the same memory, with the same results' places.
Capture = Callable[[Callable[[], "Decoded"]], Callable[[], "Decoded"]]

_FIELDS = 9  # of Rows and Draw


@dataclass(frozen=True, slots=True)
class Decoded:
    """Of a step of B rows: their slots, logits, the tokens sampled from them, and which logits are broken.

    Good until the next.
    """

    slots_B: torch.Tensor
    logits_BV: torch.Tensor
    token_ids_B: torch.Tensor
    broken_B: torch.Tensor


def capture_sizes(most: int) -> list[int]:
    """Batch sizes to capture, up to `most`: neighbours differ by a third at most, from eight on by eight or more."""
    sizes = [size for size in (1, 2, 4) if size < most]
    size = 8
    while size < most:
        sizes.append(size)
        size += max(8, size // 4 // 8 * 8)
    return [*sizes, most]


class CudaCapture:
    """A `Capture` into CUDA graphs, which share one pool of memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # Our own, and the same for all: cuBLAS keeps a workspace a stream, which must live as long as the graphs do.
        self._stream = torch.cuda.Stream()

    def __call__(self, run: Callable[[], Decoded]) -> Callable[[], Decoded]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # compiles, and makes libraries allocate what they keep
            run()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            decoded = run()

        def replay() -> Decoded:
            graph.replay()
            return decoded

        return replay


class DecodeGraphs:
    """Captured steps of single tokens. Needs a dispatcher that sends nothing to other ranks.

    `share` sends the sampled tokens to the other ranks of the group, for steps that are planned before they are known.
    """

    def __init__(
        self,
        model: GptOss,
        store: KVStore,
        builder: StepBuilder,
        tp: Group,
        sizes: Sequence[int],
        *,
        max_model_len: int,
        capture: Capture,
        share: bool,
    ) -> None:
        self._model, self._store, self._builder, self._tp = model, store, builder, tp
        self._longest, self._share = max_model_len, share
        self._moes = model.moes()
        self._sizes = sorted(sizes)
        self._logits = torch.empty((self._sizes[-1], model.config.vocab_size), dtype=model.dtype, device=builder.device)
        self._inputs: dict[int, torch.Tensor] = {}
        self._replays: dict[int, Callable[[], Decoded]] = {}
        for size in reversed(self._sizes):  # the largest first: the others find their memory in its
            self._inputs[size] = self._host([], [], size).to(builder.device)
            self._replays[size] = capture(self._step(size))

    def takes(self, plan: StepPlan) -> bool:
        """Whether a step is one of these: single tokens, each of which samples, no more of them than were captured."""
        if not 0 < len(plan.shares) <= self._sizes[-1]:
            return False
        return all(share.count == 1 and share.sample and not share.prompt_logprobs for share in plan.shares)

    def run(self, plan: StepPlan, rows: Sequence[SamplingRow]) -> Decoded:
        """One step; `rows` are the sampler's on the leader, none elsewhere. Collective over the group."""
        count = len(plan.shares)
        size = self._size(count)
        self._builder.grant(plan)
        host = self._host(self._builder.row_arrays(plan, size), rows, size)
        if self._builder.device.type == "cuda":
            host = host.pin_memory()
        self._inputs[size].copy_(host, non_blocking=True)
        decoded = self._replays[size]()
        for moe in self._moes:  # what a replay does not count
            moe.dispatcher.counters.expert_rows += count * self._model.config.experts_per_token
        return Decoded(
            decoded.slots_B[:count], decoded.logits_BV[:count], decoded.token_ids_B[:count], decoded.broken_B[:count]
        )

    def replay_of(self, count: int) -> Callable[[], Decoded]:
        """Runs a step of `count` rows, or a few more, once more on whatever inputs it had last: to be timed."""
        return self._replays[self._size(count)]

    def _size(self, count: int) -> int:
        return next(size for size in self._sizes if size >= count)

    def _host(self, places: Sequence[Sequence[int]], rows: Sequence[SamplingRow], size: int) -> torch.Tensor:
        """The inputs of a step of `size` rows, (fields, size) int64; floats by their bits."""
        host = np.zeros((_FIELDS, size), dtype=np.int64)
        host[:3] = places or [[0] * size, [-1] * size, [self._builder.padding_slot] * size]
        if rows:
            for line, array in zip(host[3:], draw_arrays(rows), strict=True):
                line[: len(array)] = array.view(np.int64)
        return torch.from_numpy(host)

    def _step(self, size: int) -> Callable[[], Decoded]:
        inputs = self._inputs[size]

        def run() -> Decoded:
            tokens_B, positions_B, slots_B, temperature_B, min_p_B, top_k_B, top_p_B, seed_B, index_B = inputs
            step = self._builder.lay_out(Rows(tokens_B, positions_B, slots_B), self._longest)
            logits_BV = self._model.logits(self._model(step, self._store), out=self._logits[:size])
            floats = (x_B.view(torch.float64) for x_B in (temperature_B, min_p_B, top_p_B))
            temperature_B, min_p_B, top_p_B = floats
            token_ids_B, broken_B = sample(logits_BV, temperature_B, min_p_B, top_k_B, top_p_B, seed_B, index_B)
            if self._share:
                self._tp.broadcast_(token_ids_B)
            self._builder.remember(slots_B, token_ids_B)
            return Decoded(slots_B, logits_BV, token_ids_B, broken_B)

        return run
