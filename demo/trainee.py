"""The model that serves, made ready to be trained: on one rank, in float32, every weight with a gradient."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..cache.store import KVStore
from ..experts.base import ExpertShard
from ..kernels.device import fastest_dtype
from ..models.config import ModelConfig
from ..models.gpt_oss import SLIDING, GptOss
from ..parallel.dispatch.local import LocalDispatcher
from ..parallel.mesh import Mesh
from ..weights.checkpoint import Checkpoint
from ..weights.load import load
from .balance import WatchedRouter
from .batch import Batch
from .deepening import deepened, sources
from .experts import TrainedExperts


class Trainee:
    """A `GptOss` over experts and routers that can be trained. The same seed makes the same weights."""

    def __init__(
        self,
        config: ModelConfig,
        seed: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`dtype` of activations: without one the fastest of this device."""
        self.config, self.device = config, torch.device(device)
        self.dtype = dtype = dtype or fastest_dtype(self.device)
        experts = range(config.num_experts)
        shard = ExpertShard(
            config.num_experts, config.hidden_size, config.expert_width, experts, range(config.expert_width), config.glu
        )
        stores = {
            i: TrainedExperts(shard, self.device) for i in range(config.num_layers) if i not in config.dense_layers
        }
        self.stores = list(stores.values())
        self.model = GptOss(
            config,
            Mesh.single(self.device),
            lambda layer: stores[layer],
            LocalDispatcher(),
            dtype=dtype,
            weight_dtype=torch.float32,
            device=self.device,
        )
        self.routers = [WatchedRouter(moe.router) for moe in self.model.moes()]
        initialise(self.model, config, seed)
        for moe, router in zip(self.model.moes(), self.routers, strict=True):
            moe.router = router  # type: ignore[assignment]  # it does what a router does
        kinds = [
            tuple(i for i, kind in enumerate(config.layer_types) if (kind == SLIDING) is sliding)
            for sliding in (False, True)
        ]
        windows = None, config.sliding_window
        self.windows = [(layers, window) for layers, window in zip(kinds, windows, strict=True) if layers]

    def begin_with(self, directory: Path) -> None:
        """Take the weights of a checkpoint, its experts in MXFP4 or in floats. One of fewer layers grows: `deepened`.

        Raises CheckpointError, and ValueError where it cannot grow to this shape.
        """
        with Checkpoint(directory) as checkpoint, torch.no_grad():
            config, layers = self.config, _layers(checkpoint)
            if not 0 < layers < config.num_layers:
                self._read(checkpoint)
                return
            kinds = [(kind, layer in config.dense_layers) for layer, kind in enumerate(config.layer_types)]
            made_of = sources(kinds[:layers], kinds)
            dense = tuple(layer for layer in config.dense_layers if layer < layers)
            types = config.layer_types[:layers]
            shape = replace(config, num_layers=layers, layer_types=types, dense_layers=dense)
            smaller = Trainee(shape, 0, self.dtype, self.device)
            smaller._read(checkpoint)
            self.model.load_state_dict(deepened(smaller.model.state_dict(), made_of))

    def _read(self, checkpoint: Checkpoint) -> None:
        packed = any(name.endswith("_blocks") for name in checkpoint)
        for store in self.stores:
            store.packed_source = packed
        load(checkpoint, self.model.slots())

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross entropy over the targets in nats, and the routers' imbalance: both with gradients."""
        entropy = F.cross_entropy(self._logits(batch), batch.targets_S)
        return entropy, torch.stack([router.loss() for router in self.routers]).mean()

    def right(self, batch: Batch) -> torch.Tensor:
        """For each row of the samples whether the likeliest token is the target; true where there is none. (T,)"""
        right_T = torch.ones(len(batch.samples.token_ids_T), dtype=torch.bool, device=self.device)
        right_T[batch.rows_S] = self._logits(batch).argmax(-1) == batch.targets_S
        return right_T

    def _logits(self, batch: Batch) -> torch.Tensor:
        c = self.config
        store = KVStore(batch.spec, kv_heads=c.num_kv_heads, width=c.head_dim, dtype=self.dtype, device=self.device)
        self.model(batch.heads, store)
        return self.model.logits(self.model(batch.samples, store).index_select(0, batch.rows_S)).float()

    def pack_experts(self) -> None:
        """From now on compute with what MXFP4 leaves of the experts."""
        for store in self.stores:
            store.packed = True


def _layers(checkpoint: Checkpoint) -> int:
    """How many layers it has weights of."""
    return len({layer for name in checkpoint for layer in re.findall(r"^model\.layers\.(\d+)\.", name)})


@torch.no_grad()
def initialise(model: GptOss, config: ModelConfig, seed: int) -> None:
    """Normal weights that keep an output at its input's scale; what is added to the residual stream is smaller."""
    generator = torch.Generator().manual_seed(seed)
    calm = 1 / math.sqrt(2 * config.num_layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(True)
        if parameter.dim() == 1 or name.endswith("bias"):
            parameter.fill_(1.0 if "norm" in name else 0.0)
            continue
        scale = parameter.shape[-1] ** -0.5
        if name.endswith(("attention.o.weight", "experts.down", "mlp.down.weight")):
            scale *= calm
        elif name == "embedding.weight":
            scale = 0.5
        elif name.endswith("router.weight"):
            scale *= 0.5
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """For AdamW: matrices decay; norms, biases and sinks do not."""
    kinds: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        kinds[parameter.dim() == 1 or name.endswith("bias")].append(parameter)
    return [{"params": kinds[0], "weight_decay": weight_decay}, {"params": kinds[1], "weight_decay": 0.0}]
