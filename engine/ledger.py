"""What a rank's memory will hold, counted before anything is loaded; refuses what cannot fit, with the mend.

In: the model's parameters (on the meta device, so they cost nothing), the budget, the limits of a step.
Out: pages for each cache group, and lines for the start-up log.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models.config import ModelConfig
from ..parallel.layout import ParallelConfig

GIB = 1 << 30
GRAPH_NODE_BYTES = 2 << 20  # a layer of all graphs: their nodes, and what split products keep


class DoesNotFit(ValueError):
    """The model, or one request of the wanted length, is larger than the memory that it may use."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Bytes on one rank. `total` is what Yardmaster may use, `cache` what is left for keys and values."""

    device: str
    total: int
    weights: int
    activations: int
    graphs: int = 0
    cache_limit: int | None = None  # --kv-cache-memory-bytes

    @property
    def cache(self) -> int:
        """Raises DoesNotFit when weights and activations leave nothing, or less than was asked for."""
        left = self.total - self.weights - self.activations - self.graphs
        wanted = self.cache_limit if self.cache_limit is not None else 1
        if left < wanted:
            raise DoesNotFit(
                f"the model does not fit: {self.device} may use {show(self.total)}, weights take {show(self.weights)}, "
                f"activations {show(self.activations)}, which leaves {show(max(0, left))} for the key-value cache"
                + (f" of --kv-cache-memory-bytes {show(wanted)}" if self.cache_limit is not None else "")
                + ": shard over more ranks (--tensor-parallel-size, --data-parallel-size), raise "
                "--gpu-memory-utilization, or lower --max-num-batched-tokens"
            )
        return left if self.cache_limit is None else self.cache_limit

    def planned(self, kv_bytes: int) -> int:
        """Bytes that the rank will hold, at most."""
        return self.weights + self.activations + self.graphs + kv_bytes

    def lines(self, rank: int, kv_bytes: int, kv_tokens: int, max_model_len: int) -> list[str]:
        """The ledger as the log shows it."""
        return [
            f"rank {rank} on {self.device}: {show(self.total)} usable",
            f"  weights      {show(self.weights):>11}",
            f"  activations  {show(self.activations):>11}  (largest step)",
            *([f"  graphs       {show(self.graphs):>11}  (decode steps)"] if self.graphs else []),
            f"  kv cache     {show(kv_bytes):>11}  ({kv_tokens:,} tokens; one request up to {max_model_len:,})",
            f"  left         {show(self.total - self.planned(kv_bytes)):>11}",
        ]


def parameter_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of a model's parameters, each once."""
    return sum({id(p): p.numel() * p.element_size() for p in parameters}.values())


def activation_bytes(
    config: ModelConfig, layout: ParallelConfig, dtype: torch.dtype, *, tokens: int, logit_rows: int
) -> int:
    """Upper estimate of what the largest step holds at once beside weights and cache.

    Attention (queries, keys, output), or the experts' rows when all groups run a full step: the rows that land here
    are taken as twice the mean, at most all; or the logits in float32 with the sampler's two copies.
    """
    width = config.head_dim * (config.num_heads + 2 * config.num_kv_heads) // min(layout.tp, config.num_kv_heads)
    residual = 3 * tokens * config.hidden_size
    attention = tokens * (2 * width + config.hidden_size)
    everywhere = tokens * layout.dp * config.experts_per_token
    rows = min(everywhere, 2 * everywhere // layout.ep)
    experts = rows * (3 * config.hidden_size + 3 * config.expert_width // layout.etp)
    experts = max(experts, tokens * 4 * config.dense_width // layout.tp)
    logits = 3 * 4 * logit_rows * config.vocab_size
    return max((residual + max(attention, experts)) * dtype.itemsize, logits)


def graph_bytes(config: ModelConfig, dtype: torch.dtype, batch: int) -> int:
    """Upper estimate of what captured decode steps keep: one pool for the largest batch, its logits, and the nodes."""
    width = config.head_dim * (config.num_heads + 2 * config.num_kv_heads)
    rows = config.experts_per_token * (3 * config.hidden_size + 3 * config.expert_width)
    token = 3 * config.hidden_size + 2 * width + config.hidden_size + rows + config.vocab_size
    return batch * token * dtype.itemsize + GRAPH_NODE_BYTES * config.num_layers


def usable_bytes(device: torch.device, share: float) -> int:
    """What this rank may use of its device: `share` of the whole GPU less what others hold of it, or of the host's

    free memory, divided by the ranks on this host.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(total * share) - (total - free))
    return int(_host_memory() * share) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _host_memory() -> int:
    """Bytes that are free on this host, or that its control group still allows, whichever is less."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free = min(free, max(0, int(limit) - int(used)))
    return free


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def show(size: int) -> str:
    """Bytes for people: "12.82 GiB"."""
    if abs(size) >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / (1 << 20):.1f} MiB"
