"""Before serving: compile what a GPU will run, by running it, and capture the decode steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch

from ..cache.grant import Grant
from ..kernels.gpu.experts_plan import rounded
from ..parallel.dispatch.base import Counters
from .decode_graph import CudaCapture, DecodeGraphs
from .plan import Share, StepPlan
from .runner import ModelRunner
from .sampling_params import SamplingParams
from .scheduler import SchedulerConfig
from .step import SamplingRow
from .step_clock import StepClock


def warm_gpu(runner: ModelRunner, counters: Counters, limits: SchedulerConfig) -> float:
    """Steps of every size that has a plan of its own, of prompts and of single tokens. Returns the seconds it took.

    They write into pages that nobody holds yet. Collective over all ranks. Triton keeps what it compiled on disk, so a
    second start is fast.
    """
    began = time.perf_counter()
    with uncounted(runner, counters):
        most = min(limits.max_num_batched_tokens, _longest(runner))
        for tokens in _powers(limits.max_num_batched_tokens):
            for batch in (tokens, tokens + 1):  # what holds a batch may be made for the next greater one
                _run(runner, [1] * min(batch, limits.max_num_seqs))
            prompt = min(tokens, most)
            _run(runner, [prompt])
            if prompt > 1:
                _run(runner, [1, prompt - 1])  # some go on while a prompt comes in
        for pairs in _powers(limits.max_num_batched_tokens * runner.model.config.experts_per_token):
            _arriving(runner, pairs)
        for batch in (1, 2):  # of an odd number of rows and an even one, in float32, for they are edited
            _run(runner, [1] * batch, logit_bias={0: 1.0}, logprobs=1)
    if runner.builder.device.type == "cuda":
        torch.cuda.synchronize(runner.builder.device)
    return time.perf_counter() - began


def capture_graphs(runner: ModelRunner, counters: Counters, sizes: list[int], max_model_len: int) -> tuple[float, int]:
    """Give the runner its decode graphs; the seconds that it took, and the bytes of the device that they hold."""
    began, free = time.perf_counter(), torch.cuda.mem_get_info()[0]
    with uncounted(runner, counters), torch.inference_mode():
        runner.graphs = DecodeGraphs(
            runner.model,
            runner.store,
            runner.builder,
            runner.tp,
            sizes,
            max_model_len=max_model_len,
            capture=CudaCapture(),
            share=runner.share_tokens,
        )
    torch.cuda.synchronize()
    return time.perf_counter() - began, free - torch.cuda.mem_get_info()[0]


@contextmanager
def uncounted(runner: ModelRunner, counters: Counters) -> Iterator[None]:
    """What runs inside is neither traffic nor time at work."""
    before = replace(counters)
    yield
    for counter in fields(before):
        setattr(counters, counter.name, getattr(before, counter.name))
    runner.clock = StepClock(runner.builder.device)


def _powers(most: int) -> Iterator[int]:
    """Of two, up to the first that is no smaller than `most`."""
    return (1 << power for power in range(rounded(most).bit_length()))


def _run(runner: ModelRunner, counts: list[int], **params: Any) -> None:
    """One step of as many requests, from their first token on; half of them are drawn, the others greedy."""
    size = runner.builder.spec.page_size
    shares = [
        Share(slot, 0, [0] * count, [Grant(0, [0] * -(-count // size)) for _ in runner.builder.spec.groups], True)
        for slot, count in enumerate(counts)
        if slot < runner.builder.padding_slot
    ]
    asked = [SamplingParams(temperature=float(slot % 2 == 0), top_p=0.9, **params) for slot in range(len(shares))]
    rows = [SamplingRow(one, (), (), slot) for slot, one in enumerate(asked)]
    runner.launch(StepPlan(shares), rows if runner.leader else ()).output()
    runner.rest()


def _longest(runner: ModelRunner) -> int:
    return (runner.builder.columns - 1) * runner.builder.spec.page_size


@torch.inference_mode()
def _arriving(runner: ModelRunner, pairs: int) -> None:
    """How many pairs arrive at a rank from others is chance: as many as this, all of one token."""
    moe = runner.model.moes()[0]
    x_TD = torch.randn(1, runner.model.config.hidden_size, dtype=runner.model.dtype, device=runner.builder.device)
    arrived = moe.dispatcher.dispatch(x_TD, *moe.router(x_TD))
    if arrived.token_R is not None and len(arrived.x_MD):
        nobody = torch.zeros(pairs, dtype=torch.int64, device=x_TD.device)
        moe.experts.run(arrived.x_MD[:1], nobody, nobody)
