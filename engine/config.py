"""Everything a rank must know to build its part of the engine. Made by the command line or `LLM()`, sent as JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

from ..models.config import ModelConfig
from ..parallel.layout import ParallelConfig
from .scheduler import SchedulerConfig

LoadFormat = Literal["auto", "dummy"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
ExpertDtype = Literal["auto", "mxfp4", "bfloat16", "float16", "float32"]
Device = Literal["auto", "cpu", "cuda"]
KVCacheDtype = Literal["auto", "fp8", "fp8_e4m3", "bfloat16"]


MAX_MODEL_LEN = 1 << 24


def _scheduler() -> SchedulerConfig:
    return SchedulerConfig(max_num_seqs=128, max_num_batched_tokens=2048, max_model_len=MAX_MODEL_LEN, max_waiting=1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """`None` and "auto" leave a choice to the checkpoint or the machine. Raises ValueError, naming the flag.

    `model` is a directory. `max_model_len` counts prompt and output, `gpu_memory_utilization` is the part of a GPU's
    memory that this engine may take, `kv_cache_memory_bytes` overrides what of it is the cache's, `kv_cache_dtype` auto
    is that of activations. `num_cpu_threads` is per rank, `collective_timeout` in seconds. `async_scheduling` plans a
    step while the one before runs (None: on a GPU); `enforce_eager` captures no CUDA graphs,
    `max_cudagraph_capture_size` none of a larger batch. The limits of `scheduler` hold for each data-parallel group;
    its `max_model_len` gives way to what the model and the cache turn out to carry.
    """

    model: str
    load_format: LoadFormat = "auto"
    dtype: Dtype = "auto"
    expert_dtype: ExpertDtype = "auto"
    device: Device = "auto"
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    max_model_len: int | None = None
    scheduler: SchedulerConfig = field(default_factory=_scheduler)
    page_size: int = 16
    kv_cache_dtype: KVCacheDtype = "auto"
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None
    seed: int = 0
    collective_timeout: float = 60.0
    num_cpu_threads: int | None = None
    async_scheduling: bool | None = None
    enforce_eager: bool = False
    max_cudagraph_capture_size: int | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("the model's directory must not be empty")
        for flag, value, choices in (
            ("--load-format", self.load_format, LoadFormat),
            ("--dtype", self.dtype, Dtype),
            ("--expert-dtype", self.expert_dtype, ExpertDtype),
            ("--device", self.device, Device),
            ("--kv-cache-dtype", self.kv_cache_dtype, KVCacheDtype),
        ):
            if value not in get_args(choices):
                raise ValueError(f"{flag} must be one of {', '.join(get_args(choices))}, got {value!r}")
        for flag, number, low, high in (
            ("--max-model-len", self.max_model_len, 2, MAX_MODEL_LEN),
            ("--max-num-seqs", self.scheduler.max_num_seqs, 1, 1 << 16),
            ("--max-num-batched-tokens", self.scheduler.max_num_batched_tokens, 1, 1 << 20),
            ("--max-waiting", self.scheduler.max_waiting, 1, 1 << 20),
            ("--block-size", self.page_size, 1, 1024),
            ("--kv-cache-memory-bytes", self.kv_cache_memory_bytes, 1, 1 << 50),
            ("--seed", self.seed, 0, (1 << 63) - 1),
            ("--collective-timeout", self.collective_timeout, 5, 86400),  # idle beats come twice a second
            ("--num-cpu-threads", self.num_cpu_threads, 1, 4096),
            ("--max-cudagraph-capture-size", self.max_cudagraph_capture_size, 1, 1 << 16),
        ):
            if number is not None and not low <= number <= high:
                raise ValueError(f"{flag} must be between {low} and {high}, got {number}")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise ValueError(
                f"--gpu-memory-utilization must be above 0 and at most 1, got {self.gpu_memory_utilization}"
            )

    def check_model(self, model: ModelConfig) -> None:
        """Raises ValueError, naming the flag, for what this model cannot have. Asks no device."""
        if self.max_model_len is not None and self.max_model_len > model.max_position:
            raise ValueError(
                f"--max-model-len {self.max_model_len} is more than the model's max_position_embeddings "
                f"{model.max_position}"
            )
        if self.expert_dtype == "mxfp4" and model.quantization != "mxfp4":
            raise ValueError("--expert-dtype mxfp4 needs a checkpoint in MXFP4; this one has plain weights: use auto")

    def threads(self, ranks_here: int) -> int:
        """CPU threads of one of `ranks_here` ranks on this machine: by default an equal part of the cores."""
        if self.num_cpu_threads is not None:
            return self.num_cpu_threads
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // max(1, ranks_here))

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> EngineConfig:
        """Raises msgspec.ValidationError, which is a ValueError, for what `to_json` did not make."""
        return msgspec.json.decode(data, type=cls)
