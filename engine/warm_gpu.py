"""Compile before serving what a GPU will run: every plan of the expert kernels, and what stands around them."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import torch

from ..kernels.gpu.experts_plan import rounded
from ..layers.moe import MoE
from ..models.config import ModelConfig


@torch.inference_mode()
def warm_gpu(moe: MoE, config: ModelConfig, most_tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """One layer, for the others are alike, at every size that has a plan of its own. Returns the seconds it took.

    Collective over the ranks that share the experts. Triton keeps what it compiled on disk, so a second start is fast.
    """
    began = time.perf_counter()
    counted = replace(moe.dispatcher.counters)
    tokens = 1
    while tokens <= rounded(most_tokens):
        x_TD = torch.randn(min(tokens, most_tokens), config.hidden_size, dtype=dtype, device=device)
        arrived = moe.dispatcher.dispatch(x_TD, *moe.router(x_TD))
        rows = moe.experts.run(arrived.x_MD, arrived.keys, arrived.token_R)
        moe.dispatcher.combine(rows, arrived.handle)
        if arrived.token_R is not None:
            _every_number_of_pairs(moe, arrived.x_MD[:1], tokens * config.experts_per_token)
        tokens *= 2
    for counter in fields(counted):
        setattr(moe.dispatcher.counters, counter.name, getattr(counted, counter.name))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _every_number_of_pairs(moe: MoE, x_1D: torch.Tensor, pairs: int) -> None:
    """How many pairs arrive at a rank is chance: as many as this, all of one token."""
    if len(x_1D):
        nobody = torch.zeros(pairs, dtype=torch.int64, device=x_1D.device)
        moe.experts.run(x_1D, nobody, nobody)
