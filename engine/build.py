"""From a configuration to a rank that can run steps: the place where model, experts, dispatch and cache are chosen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..cache.budget import most_pages, split_budget
from ..cache.spec import CacheSpec, GroupSpec
from ..cache.store import KVStore, page_bytes
from ..experts.base import ExpertShard, ExpertStore
from ..experts.packed import PackedExperts
from ..experts.resident import ResidentExperts
from ..experts.swizzled import SwizzledExperts
from ..kernels.cpu.host import available
from ..kernels.device import triton_runs_on
from ..kernels.gpu.toolchain import check_toolchain
from ..kernels.gpu.tuning import Plans, tuning_file
from ..models.config import ModelConfig
from ..models.gpt_oss import SLIDING, GptOss
from ..models.hf_config import load_config
from ..parallel.dispatch.base import Counters, Dispatcher
from ..parallel.dispatch.build import build as build_dispatcher
from ..parallel.heads import split_heads
from ..parallel.mesh import Mesh
from ..parallel.rendezvous import Rendezvous
from ..weights import dummy
from ..weights.checkpoint import Checkpoint
from ..weights.load import load
from .config import EngineConfig
from .decode_graph import capture_sizes
from .expert_load import ExpertLoad
from .grammar import GrammarCompiler
from .ledger import Ledger, activation_bytes, graph_bytes, parameter_bytes, show, usable_bytes
from .runner import ModelRunner
from .step_builder import StepBuilder
from .warm_gpu import capture_graphs, warm_gpu

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROGRESS_SECONDS = 2.0
CPU_CACHE_BYTES = 4 << 30
LEAST_MODEL_LEN = 256  # below this a cache is of no use; a shorter --max-model-len may still ask for it


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A rank that is ready. `counters` are the dispatcher's totals, for the heartbeat."""

    executor: ModelRunner
    cache_spec: CacheSpec
    max_model_len: int
    kv_tokens: int
    ledger: list[str]
    planned_bytes: int  # what the ledger says this rank will hold
    counters: Counters
    expert_load: ExpertLoad
    grammars: GrammarCompiler
    ahead: int  # steps that may be planned before the tokens of the one before are known


def build_executor(config: EngineConfig, mesh: Mesh, report: Callable[[str], None]) -> BuiltEngine:
    """Read the checkpoint's config, count memory, allocate, load. Collective over the world.

    `report` takes progress, a line at a time. Raises CheckpointError or ValueError, one line for the user.
    """
    path = Path(config.model)
    model_config = load_config(path)
    config.check_model(model_config)
    dtype = compute_dtype(config.dtype, model_config, mesh.device)
    packed = keeps_packed(config.expert_dtype, model_config, mesh.device)
    make = _ModelMaker(model_config, config, mesh, dtype, packed, measured_plans(mesh.device, report))

    ahead = int(mesh.device.type == "cuda" if config.async_scheduling is None else config.async_scheduling)
    sizes = graph_sizes(config, mesh, dtype)
    ledger = Ledger(
        device=str(mesh.device),
        total=usable_bytes(mesh.device, config.gpu_memory_utilization),
        weights=parameter_bytes(make.model(torch.device("meta")).state_dict(keep_vars=True).values()),
        activations=activation_bytes(
            model_config,
            config.parallel,
            dtype,
            tokens=config.scheduler.max_num_batched_tokens,
            logit_rows=config.scheduler.max_num_seqs,
        ),
        graphs=graph_bytes(model_config, dtype, sizes[-1]) if sizes else 0,
        cache_limit=config.kv_cache_memory_bytes,
    )
    cache_dtype = kv_cache_dtype(config.kv_cache_dtype, dtype)
    spec, max_model_len = cache_spec(model_config, config, mesh, cache_dtype, ledger.cache)
    _, kv_heads = split_heads(model_config.num_heads, model_config.num_kv_heads, mesh.tp.size, mesh.tp.index)
    store = KVStore(spec, kv_heads=len(kv_heads), width=model_config.head_dim, dtype=cache_dtype, device=mesh.device)
    kv_tokens = min(g.num_pages for g in spec.groups if g.window is None or len(spec.groups) == 1) * spec.page_size
    lines = ledger.lines(mesh.rank, store.nbytes, kv_tokens, max_model_len)
    for line in lines:
        report(line)

    model = make.model(mesh.device)
    _fill(model, path, config, report)
    if mesh.world.size > 1:
        Rendezvous().meet("loaded")  # what comes now may be collective, and has a collective's deadline
    if make.compiled:
        from ..kernels.cpu.warm import warm  # needs llvmlite, which `available` has found

        report(f"CPU kernels compiled in {warm(experts=[torch.uint8] if packed else []):.1f} s")
    limits = config.scheduler
    builder = StepBuilder(spec, max_num_seqs=limits.max_num_seqs, max_model_len=max_model_len, device=mesh.device)
    executor = ModelRunner(model, store, builder, mesh.tp, share_tokens=ahead > 0)
    if make.plans:
        seconds = warm_gpu(executor, make.dispatcher.counters, limits)
        report(f"GPU kernels compiled or found compiled in {seconds:.1f} s")
    if sizes:
        seconds, held = capture_graphs(executor, make.dispatcher.counters, sizes, max_model_len)
        report(f"{len(sizes)} decode graphs, up to a batch of {sizes[-1]}: {seconds:.1f} s, {show(held)}")
    load_of = ExpertLoad(model.moes())
    grammars = GrammarCompiler(path / "tokenizer.json", model_config.vocab_size, model_config.eos_token_ids)
    planned = ledger.planned(store.nbytes)
    return BuiltEngine(
        executor, spec, max_model_len, kv_tokens, lines, planned, make.dispatcher.counters, load_of, grammars, ahead
    )


def compute_dtype(flag: str, model: ModelConfig, device: torch.device) -> torch.dtype:
    """The dtype of activations. `auto`: the checkpoint's on a GPU; float32 on a CPU, where it is also the fastest."""
    if flag != "auto":
        return DTYPES[flag]
    return torch.float32 if device.type == "cpu" else DTYPES[model.torch_dtype]


def kv_cache_dtype(flag: str, compute: torch.dtype) -> torch.dtype:
    """The dtype of cached keys and values. FP8 is E4M3 without a scale, as vLLM has it without calibration."""
    if flag == "auto":
        return compute
    return torch.float8_e4m3fn if flag.startswith("fp8") else DTYPES[flag]


def keeps_packed(flag: str, model: ModelConfig, device: torch.device) -> bool:
    """Whether experts stay in MXFP4. `auto`: they stay as the checkpoint has them."""
    return model.quantization == "mxfp4" and flag in ("auto", "mxfp4")


def measured_plans(device: torch.device, report: Callable[[str], None]) -> Plans | None:
    """Tiles for the expert kernels: what `yardmaster tune` measured on such a device. None without Triton.

    Raises ValueError when Triton is there and cannot compile.
    """
    if not triton_runs_on(device):
        return None
    check_toolchain()
    properties = torch.cuda.get_device_properties(device)
    plans, path = Plans(properties.multi_processor_count), tuning_file(properties.name)
    if found := plans.load(path):
        report(f"{found} measured plans of expert kernels from {path}")
    return plans


def graph_sizes(config: EngineConfig, mesh: Mesh, dtype: torch.dtype) -> list[int]:
    """Batch sizes of which decode steps are captured. None where plain torch stands in for our kernels (on a CPU, in

    another dtype than bfloat16), because it asks the host; and none where tokens go to other ranks, which does too.
    """
    if config.enforce_eager or dtype != torch.bfloat16 or not triton_runs_on(mesh.device):
        return []
    if config.expert_dtype not in ("auto", "mxfp4", "bfloat16"):
        return []
    if max(mesh.tp.size, mesh.ep.size, mesh.etp.size) > 1:
        return []
    return capture_sizes(min(config.scheduler.max_num_seqs, config.max_cudagraph_capture_size or 1 << 16))


@dataclass(slots=True)
class _ModelMaker:
    """Makes the model twice: without memory, for the ledger, and for real."""

    config: ModelConfig
    engine: EngineConfig
    mesh: Mesh
    dtype: torch.dtype
    packed: bool
    plans: Plans | None  # of a GPU with Triton
    dispatcher: Dispatcher = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.dispatcher = build_dispatcher(self.mesh, self.config.num_experts)

    @property
    def compiled(self) -> bool:
        """Whether our compiled CPU kernels run here: they read weights as stored, so nothing is widened to float32."""
        return self.mesh.device.type == "cpu" and self.dtype == torch.float32 and available()

    def model(self, device: torch.device) -> GptOss:
        return GptOss(
            self.config,
            self.mesh,
            lambda layer: self._experts(device),
            self.dispatcher,
            dtype=self.dtype,
            weight_dtype=DTYPES[self.config.torch_dtype] if self.compiled else self.dtype,
            device=device,
        )

    def _experts(self, device: torch.device) -> ExpertStore:
        c, mesh = self.config, self.mesh
        shard = ExpertShard(
            num_experts=c.num_experts,
            hidden=c.hidden_size,
            width=c.expert_width,
            experts=mesh.experts(c.num_experts),
            columns=mesh.columns(c.expert_width),
            glu=c.glu,
            first=mesh.etp.index == 0,
        )
        if self.packed and self.plans and self.dtype == torch.bfloat16:
            return SwizzledExperts(shard, dtype=self.dtype, device=device, plans=self.plans)
        if self.packed:
            return PackedExperts(shard, dtype=self.dtype, device=device)
        dtype = self.dtype if self.engine.expert_dtype == "auto" else DTYPES[self.engine.expert_dtype]
        return ResidentExperts(
            shard, dtype=dtype, device=device, packed_source=c.quantization == "mxfp4", plans=self.plans
        )


def cache_spec(
    model: ModelConfig, config: EngineConfig, mesh: Mesh, dtype: torch.dtype, budget: int
) -> tuple[CacheSpec, int]:
    """Groups and pages that fit into the smallest budget of any rank, and the longest request.

    Without --max-model-len the model's own limit is lowered to what fits. A host's memory is not ours alone: without
    --kv-cache-memory-bytes a CPU's cache takes CPU_CACHE_BYTES of it at most, or what the longest request needs.
    Raises ValueError when nothing fits.
    """
    kinds = [("full", None), ("sliding", model.sliding_window)]
    layers = {
        name: tuple(i for i, kind in enumerate(model.layer_types) if (kind == SLIDING) == (window is not None))
        for name, window in kinds
    }
    kinds = [(name, window) for name, window in kinds if layers[name]]
    windows = [window for _, window in kinds]
    # Ranks hold as many key-value heads or one fewer: the fullest counts, and all must agree.
    heads = max(
        len(split_heads(model.num_heads, model.num_kv_heads, mesh.tp.size, index)[1]) for index in range(mesh.tp.size)
    )
    size = config.page_size
    if mesh.device.type == "cuda" and size & (size - 1):
        raise ValueError(f"--block-size must be a power of two on a GPU, got {size}")
    sizes = [page_bytes(len(layers[name]), size, heads, model.head_dim, dtype) for name, _ in kinds]
    budget = min(counts[0] for counts in mesh.world.all_gather_counts(budget, device=mesh.device))

    def pages(max_model_len: int) -> list[int]:
        return split_budget(
            budget,
            sizes,
            windows,
            max_num_seqs=config.scheduler.max_num_seqs,
            max_model_len=max_model_len,
            page_size=size,
        )

    longest = config.max_model_len or model.max_position
    if mesh.device.type == "cpu" and config.kv_cache_memory_bytes is None:
        one = sum(most_pages(longest, window, size) * each for window, each in zip(windows, sizes, strict=True))
        budget = min(budget, max(CPU_CACHE_BYTES, one))
    while config.max_model_len is None and longest > LEAST_MODEL_LEN:
        try:
            pages(longest)
            break
        except ValueError:
            longest = longest // 2
    counts = pages(longest)
    groups = [GroupSpec(name, layers[name], window, count) for (name, window), count in zip(kinds, counts, strict=True)]
    return CacheSpec(size, tuple(groups)), longest


def _fill(model: GptOss, path: Path, config: EngineConfig, report: Callable[[str], None]) -> None:
    slots = model.slots()
    if config.load_format == "dummy":
        dummy.fill(slots, config.seed)
        return
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            report(f"weights {done * 100 // max(1, total)} %")

    with Checkpoint(path) as checkpoint:
        load(checkpoint, slots, progress=progress)
