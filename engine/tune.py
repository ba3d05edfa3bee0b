"""`yardmaster tune`: which tiles are fastest on this very device, for the experts of one model in one layout.

Enters: a checkpoint's config (no weights: random ones are as fast). Leaves: the device's file of measured plans, which
every later start reads. Minutes of work, nothing of it while serving.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..experts.base import ExpertShard, ExpertStore
from ..experts.resident import ResidentExperts
from ..experts.swizzled import SwizzledExperts
from ..kernels.device import triton_runs_on
from ..kernels.gpu.experts_plan import Choice, Layer, Plan, choose, rounded
from ..kernels.gpu.tuning import Plans, search, tuning_file
from ..models.config import ModelConfig
from ..models.hf_config import load_config
from ..parallel.layout import ParallelConfig, split
from ..parallel.mesh import MXFP4_BLOCK

ROTATED = 4  # layers of weights that take turns, so that none is found in the cache
TOLERANCE = 2e-2  # between two plans' results; they round alike but for the order of sums
REPLAYS = 20

Progress = Callable[[int, int, str], None]  # done, of how many, what was found


def tune(
    model: Path, parallel: ParallelConfig, most_tokens: int, progress: Progress, output: Path | None = None
) -> tuple[Path, int]:
    """Measure every number of pairs that a step of at most `most_tokens` tokens a rank can bring.

    Keeps what the file has for other models. Returns the file and how many plans were measured. Raises ValueError
    without a GPU, CheckpointError for a config that cannot be read.
    """
    device = torch.device("cuda")
    if not torch.cuda.is_available() or not triton_runs_on(device):
        raise ValueError("yardmaster tune measures on a CUDA GPU with Triton, and there is none here")
    config = load_config(model)
    properties = torch.cuda.get_device_properties(device)
    path = output or tuning_file(properties.name)
    plans = Plans(properties.multi_processor_count)
    plans.load(path)
    bench = _Bench(config, parallel, device)
    sizes = [1 << power for power in range((rounded(most_tokens * config.experts_per_token)).bit_length())]
    for done, pairs in enumerate(sizes):
        best, took = search(bench.layer, plans(bench.layer, pairs), bench.measurer(pairs))
        plans.measured[bench.layer, pairs] = best
        plans.save(path, {"device": properties.name, "torch": torch.__version__})  # an interrupted run keeps its part
        progress(done + 1, len(sizes), f"{pairs} pairs: {took:.1f} us")
    return path, len(sizes)


class _Told:
    """A choice of plans that gives the one it was told last."""

    plan: Plan

    def __call__(self, layer: Layer, pairs: int) -> Plan:
        return self.plan


class _Bench:
    """Random experts of one rank, and tokens for them."""

    def __init__(self, config: ModelConfig, parallel: ParallelConfig, device: torch.device) -> None:
        shard = ExpertShard(
            config.num_experts,
            config.hidden_size,
            config.expert_width,
            split(config.num_experts, parallel.ep, 0),
            split(config.expert_width, parallel.etp, 0, MXFP4_BLOCK),
            config.glu,
        )
        packed = config.quantization == "mxfp4"
        self.device, self.slots, self._told = device, config.experts_per_token, _Told()
        self.layer = Layer("mxfp4" if packed else "dense", len(shard.experts), shard.hidden, len(shard.columns))
        self._stores = [_random(shard, packed, device, self._told) for _ in range(ROTATED)]

    @torch.inference_mode()
    def measurer(self, pairs: int) -> Callable[[Plan], float]:
        """Microseconds of a plan for this many pairs, on fresh random tokens; infinity when it fails or is wrong."""
        slots = min(pairs, self.slots, self.layer.experts)
        calls = [self._call(store, -(-pairs // slots), slots) for store in self._stores]
        self._told.plan = choose(self.layer, pairs, 1)
        want = calls[0]().clone()

        @torch.inference_mode()
        def measure(plan: Plan) -> float:
            from triton.runtime.errors import TritonError

            from ..kernels.gpu.timing import microseconds

            self._told.plan = plan
            try:
                got = calls[0]().clone()
                took = microseconds(calls, REPLAYS)
            except TritonError:  # more registers or shared memory than there are
                return math.inf
            except RuntimeError as error:
                if "PassManager" not in str(error):  # the compiler's way to say that it cannot
                    raise
                return math.inf
            return took if float((got - want).norm() / want.norm()) < TOLERANCE else math.inf

        return measure

    def _call(self, store: ExpertStore, tokens: int, slots: int) -> Callable[[], torch.Tensor]:
        x_MD = torch.randn(tokens, self.layer.hidden, dtype=torch.bfloat16, device=self.device)
        keys_MK = torch.rand(tokens, self.layer.experts, device=self.device).topk(slots).indices
        return lambda: store.run(x_MD, keys_MK)


def _random(shard: ExpertShard, packed: bool, device: torch.device, plans: Choice) -> ExpertStore:
    """Experts with weights near 1 / sqrt(hidden)."""
    if packed:
        swizzled = SwizzledExperts(shard, dtype=torch.bfloat16, device=device, plans=plans)
        for name, tensor in swizzled.state_dict().items():
            if "scales" in name:
                tensor.view(torch.uint8).random_(245, 249)  # exponents as stored: weights of up to 2^-4 to 2^-7 times 6
            elif "words" in name:
                tensor.view(torch.uint8).random_(0, 256)
            else:
                tensor.normal_()
        return swizzled
    plain = ResidentExperts(shard, dtype=torch.bfloat16, device=device, packed_source=False, plans=plans)
    for tensor in plain.state_dict().values():
        tensor.normal_(0, shard.hidden**-0.5)
    return plain
