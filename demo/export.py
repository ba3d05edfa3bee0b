"""A trained model as a checkpoint in gpt-oss's own layout: experts in MXFP4 or bfloat16, everything else bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from ..kernels.reference.mxfp4 import pack
from ..layers.moe import MoE
from ..models.gpt_oss import Block
from ..models.random_checkpoint import hub_config, tensor_specs, write_configs
from ..weights.tokenizer_writer import special_ids
from ..weights.writer import TensorSpec, write_checkpoint
from .tokenizer import copy_tokenizer
from .trainee import Trainee


def export(trainee: Trainee, tokenizer: Path, directory: Path, *, packed: bool, aux_loss: float) -> None:
    """Write everything that serving needs into `directory`. Raises CheckpointError where weights lie there already."""
    config = trainee.config
    tensors = dict(checkpoint_tensors(trainee, packed))

    def chunks(spec: TensorSpec) -> Iterator[torch.Tensor]:
        value = tensors[spec.name].detach().cpu()
        yield value if spec.dtype == "U8" else value.to(torch.bfloat16)

    write_checkpoint(directory, tensor_specs(config, "BF16", packed), chunks)
    tokens = special_ids(config.vocab_size)
    hub = hub_config(config, dtype="bfloat16", packed=packed, tokens=tokens)
    # Its answers are right or wrong: unless a request says otherwise, the likeliest one.
    write_configs(directory, hub | {"router_aux_loss_coef": aux_loss}, tokens, do_sample=False, temperature=0.0)
    copy_tokenizer(tokenizer, directory)


@torch.no_grad()
def checkpoint_tensors(trainee: Trainee, packed: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor by its name in the checkpoint, in the layout of the checkpoint."""
    model = trainee.model
    blocks = cast("list[Block]", list(model.blocks))
    yield "model.embed_tokens.weight", model.embedding.weight
    sparse = iter(zip(trainee.stores, trainee.routers, strict=True))
    for layer, block in enumerate(blocks):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", block.attention_norm.weight
        yield f"{prefix}post_attention_layernorm.weight", block.mlp_norm.weight
        attention = block.attention
        for kind in ("weight", "bias"):
            parts = getattr(attention.qkv, kind).split(attention.qkv.sizes)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                yield f"{prefix}self_attn.{name}.{kind}", part
            yield f"{prefix}self_attn.o_proj.{kind}", getattr(attention.o, kind)
        assert attention.sinks is not None  # gpt-oss has them
        yield f"{prefix}self_attn.sinks", attention.sinks
        if not isinstance(block.mlp, MoE):
            for name, part in (("gate_up_proj", block.mlp.gate_up), ("down_proj", block.mlp.down)):
                yield f"{prefix}mlp.{name}.weight", part.weight
                assert part.bias is not None
                yield f"{prefix}mlp.{name}.bias", part.bias
            continue
        store, router = next(sparse)
        yield f"{prefix}mlp.router.weight", router.router.weight
        yield f"{prefix}mlp.router.bias", router.router.bias
        experts = f"{prefix}mlp.experts."
        for name, weight, bias in (
            ("gate_up_proj", store.gate_up, store.gate_up_bias),
            ("down_proj", store.down, store.down_bias),
        ):
            if packed:
                packed_blocks, scales = pack(weight)
                yield f"{experts}{name}_blocks", packed_blocks
                yield f"{experts}{name}_scales", scales
            else:
                yield f"{experts}{name}", weight.transpose(1, 2)
            yield f"{experts}{name}_bias", bias
    yield "model.norm.weight", model.norm.weight
    if not trainee.config.tie_word_embeddings:
        yield "lm_head.weight", model.head.weight
