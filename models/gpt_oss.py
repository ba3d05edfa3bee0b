"""gpt-oss-20b and -120b (openai model card): alternating windows, sinks, YaRN, biases everywhere, MXFP4 experts.

T tokens of a step, D model width, S rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from ..cache.store import KVStore
from ..experts.base import ExpertStore
from ..layers.attention import Attention
from ..layers.mlp import GatedMLP
from ..layers.moe import MoE
from ..layers.norm import RMSNorm
from ..layers.rope import Rope
from ..layers.router import TopKRouter
from ..layers.step_input import GroupInput, StepInput
from ..parallel.dispatch.base import Addend, Dispatcher
from ..parallel.embedding import VocabEmbedding, VocabHead
from ..parallel.mesh import Mesh
from ..weights.slot import Slot
from .config import ModelConfig

SLIDING = "sliding_attention"


class Block(nn.Module):
    """Attention, and a mixture of experts or a dense layer, each behind a norm and beside a residual."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        mesh: Mesh,
        experts: Callable[[int], ExpertStore],
        dispatcher: Dispatcher,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, device)
        self.attention = Attention(
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            mesh.tp,
            window=config.sliding_window if config.layer_types[layer] == SLIDING else None,
            sinks=True,
            bias=config.attention_bias,
            dtype=dtype,
            device=device,
        )
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, device)
        hidden = config.hidden_size
        self.mlp: MoE | GatedMLP
        if layer in config.dense_layers:
            width, bias = config.dense_width, config.attention_bias
            self.mlp = GatedMLP(hidden, width, config.glu, mesh.tp, bias=bias, dtype=dtype, device=device)
        else:
            k = config.experts_per_token
            router = TopKRouter(hidden, config.num_experts, k, dtype=dtype, device=device)
            self.mlp = MoE(router, experts(layer), dispatcher, mesh.tp)

    def forward(
        self,
        x_TD: torch.Tensor,
        addend: Addend | None,
        rope: tuple[torch.Tensor, torch.Tensor],
        step: StepInput,
        group: GroupInput,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> tuple[torch.Tensor, Addend]:
        """The residual stream and what the block before adds to it -> the same of this block."""
        if addend is None:
            normed_TD = self.attention_norm(x_TD)
        else:
            x_TD, normed_TD = self.attention_norm.add(x_TD, addend)
        attended_TD = self.attention(normed_TD, rope, step, group, k_cache, v_cache)
        x_TD, normed_TD = self.mlp_norm.add(x_TD, Addend(attended_TD))
        return x_TD, self.mlp(normed_TD, step.live_T)

    def slots(self, prefix: str) -> list[Slot]:
        return [
            *self.attention_norm.slots(f"{prefix}input_layernorm."),
            *self.attention.slots(f"{prefix}self_attn."),
            *self.mlp_norm.slots(f"{prefix}post_attention_layernorm."),
            *self.mlp.slots(f"{prefix}mlp."),
        ]


class GptOss(nn.Module):
    """The model of one rank. `forward` and `logits` are collective over the ranks that share it.

    Layers that the config calls dense have one gated product instead of experts (the hub's gpt-oss has none such, small
    models of one's own may). `experts` makes the expert store of a layer; the dispatcher serves all layers. `dtype` is
    that of activations, `weight_dtype` that in which dense weights are kept (default: the same). Norms and sinks are
    float32, as transformers keeps the norms.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        experts: Callable[[int], ExpertStore],
        dispatcher: Dispatcher,
        *,
        dtype: torch.dtype,
        device: torch.device,
        weight_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        stored = weight_dtype or dtype
        self.rope = Rope(config.rope, config.head_dim, device)
        self.embedding = VocabEmbedding(config.vocab_size, config.hidden_size, mesh.tp, dtype=stored, device=device)
        self.blocks = nn.ModuleList(
            Block(config, layer, mesh, experts, dispatcher, stored, device) for layer in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, device)
        self.head = VocabHead(
            config.vocab_size,
            config.hidden_size,
            mesh.tp,
            dtype=stored,
            device=device,
            tied=self.embedding if config.tie_word_embeddings else None,
        )

    def forward(self, step: StepInput, store: KVStore) -> torch.Tensor:
        """One step: new keys and values go into `store`, the last layer's normed states come back, x_TD."""
        group_of = {layer: i for i, group in enumerate(store.spec.groups) for layer in group.layers}
        x_TD = self.embedding(step.token_ids_T, self.dtype)
        rope = self.rope.tables(step.positions_T)
        addend = None
        for layer, block in enumerate(self.blocks):
            group = step.groups[group_of[layer]]
            x_TD, addend = block(x_TD, addend, rope, step, group, store.keys[layer], store.values[layer])
        return self.norm(x_TD) if addend is None else self.norm.add(x_TD, addend)[1]

    def moes(self) -> list[MoE]:
        """The layers' mixtures of experts, for those who watch their load."""
        return [block.mlp for block in self._layers() if isinstance(block.mlp, MoE)]

    def _layers(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def logits(self, x_SD: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Normed states of chosen rows to logits_SV, in the dtype of the activations; into `out` when it is given."""
        return self.head(x_SD, out)

    def slots(self) -> list[Slot]:
        """Every tensor of the checkpoint and the part of it that this rank keeps."""
        slots = self.embedding.slots("model.embed_tokens.")
        for layer, block in enumerate(self._layers()):
            slots += block.slots(f"model.layers.{layer}.")
        return [*slots, *self.norm.slots("model.norm."), *self.head.slots("lm_head.")]
