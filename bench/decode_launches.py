"""Every launch of a decode step, without a GPU: how many a layer has, and which.

    python -m yardmaster.bench.decode_launches [--models gpt-oss-20b …] [--batches 1 8 …]

The model is laid out in its true shapes but with few layers, over memory that is never touched; Triton's launches are
caught, torch's operators counted (those that only look at memory launch nothing). What a layer costs is the difference
between a model of four layers and one of two.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from unittest import mock

os.environ.pop("TRITON_INTERPRET", None)

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from yardmaster.bench.gpu_models import BATCHES, MODELS
from yardmaster.cache.spec import CacheSpec, GroupSpec
from yardmaster.cache.store import KVStore
from yardmaster.engine.decode_graph import DecodeGraphs
from yardmaster.engine.step_builder import StepBuilder
from yardmaster.experts.base import ExpertShard
from yardmaster.experts.swizzled import SwizzledExperts
from yardmaster.kernels import attention, look_up, norm, permute, routing, sampling, store
from yardmaster.kernels.gpu.compiled import record
from yardmaster.kernels.gpu.tuning import Plans
from yardmaster.models.config import ModelConfig
from yardmaster.models.gpt_oss import GptOss
from yardmaster.parallel.dispatch.local import LocalDispatcher
from yardmaster.parallel.mesh import Mesh

PROCESSORS = 132  # an H100's
# Operators that launch nothing: they make memory, or look at it in another shape.
FREE = {
    "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "flatten", "narrow",
    "new_empty", "permute", "reshape", "select", "slice", "split", "split_with_sizes", "t", "transpose", "unbind",
    "unflatten", "unsqueeze", "view", "_unsafe_view", "zeros_like",
}  # fmt: skip


class Operators(TorchDispatchMode):
    """Counts operators that launch something. Matrix products are not computed: their values mean nothing here."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name == "linear":
            result = args[0].new_zeros(*args[0].shape[:-1], len(args[1]))
        else:
            result = func(*args, **(kwargs or {}))
        if name not in FREE and not (name in ("to", "contiguous") and result is args[0]):
            self.seen[f"torch {name}"] += 1
        return result


def step_launches(config: ModelConfig, batch: int) -> Counter[str]:
    """Launches of one decode step, from the tokens' numbers to the sampled tokens, by kernel."""
    step = _step(config, batch)
    with ExitStack() as stack:
        for door in (attention, norm, routing, store):
            stack.enter_context(mock.patch.object(door, "has_gpu_kernels", return_value=True))
        for door in (look_up, permute, sampling):
            stack.enter_context(mock.patch.object(door, "triton_runs_on", return_value=True))
        # The tokens' numbers are looked up by torch: what stands for an output that nobody wrote must be one.
        stack.enter_context(mock.patch.object(torch, "empty_like", torch.zeros_like))
        stack.enter_context(torch.inference_mode())
        with Operators():
            record(step)  # counters that are made once
        operators = Operators()
        with operators:
            launches = record(step)
    return operators.seen + Counter(launch.kernel.__name__ for launch in launches)


def launches(config: ModelConfig, batch: int) -> tuple[Counter[str], Counter[str]]:
    """Of one layer (the mean of a sliding and a full one, which are alike), and of what stands around the layers."""
    two, four = (
        step_launches(replace(config, num_layers=n, layer_types=config.layer_types[:n]), batch) for n in (2, 4)
    )
    layer = Counter({name: (count - two[name]) // 2 for name, count in four.items() if count > two[name]})
    return layer, two - layer - layer


def _step(config: ModelConfig, batch: int):  # type: ignore[no-untyped-def]
    mesh, device = Mesh.single(), torch.device("cpu")
    shard = ExpertShard(
        config.num_experts,
        config.hidden_size,
        config.expert_width,
        mesh.experts(config.num_experts),
        mesh.columns(config.expert_width),
        config.glu,
    )
    plans = Plans(PROCESSORS)
    model = GptOss(
        config,
        mesh,
        lambda layer: SwizzledExperts(shard, dtype=torch.bfloat16, device=device, plans=plans),
        LocalDispatcher(),
        dtype=torch.bfloat16,
        device=device,
    )
    kinds = {"full_attention": None, "sliding_attention": config.sliding_window}
    groups = [
        GroupSpec(kind, tuple(i for i, one in enumerate(config.layer_types) if one == kind), window, 64)
        for kind, window in kinds.items()
    ]
    spec = CacheSpec(16, tuple(groups))
    cache = KVStore(spec, kv_heads=config.num_kv_heads, width=config.head_dim, dtype=torch.bfloat16, device=device)
    builder = StepBuilder(spec, max_num_seqs=batch, max_model_len=512, device=device)
    made = []

    def keep(run):  # type: ignore[no-untyped-def]
        made.append(run)
        return run

    DecodeGraphs(model, cache, builder, mesh.tp, [batch], max_model_len=512, capture=keep, share=True)
    return made[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    options = parser.parse_args()
    for name in options.models:
        for batch in options.batches:
            layer, around = launches(MODELS[name].config, batch)
            print(f"{name}, batch {batch}: {layer.total()} a layer, {around.total()} around them")
            for title, counts in (("layer", layer), ("around", around)):
                print(f"  {title}: {', '.join(f'{count} x {one}' for one, count in counts.items())}")


if __name__ == "__main__":
    main()
