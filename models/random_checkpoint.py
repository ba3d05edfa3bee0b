"""Makes a random gpt-oss of any dimensions in the true layout of the hub: for `yardmaster init`, tests and benches.

It stands in models/ because it knows a family's tensors; what is not gpt-oss's own is in weights/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..kernels.glu import Glu
from ..weights.load import CHUNK_BYTES, TORCH_DTYPES, Progress
from ..weights.noise import Noise
from ..weights.tokenizer_writer import special_ids, write_tokenizer
from ..weights.writer import TensorSpec, write_checkpoint, write_json
from .config import ModelConfig, RopeConfig
from .config_fields import Fields
from .hf_config import CONFIG, GENERATION_CONFIG, MXFP4_BLOCK, load_config, parse_config

STORED = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
ENDS = ("<|return|>", "<|endoftext|>", "<|call|>")


def small_gpt_oss(**changes: Any) -> ModelConfig:
    """A small gpt-oss with the large one's shape (o_proj wider than hidden, four of many experts), fields replaced.

    `layer_types` follow `num_layers` unless given.
    """
    fields: dict[str, Any] = {
        "family": "gpt_oss",
        "vocab_size": 2048,
        "hidden_size": 128,
        "num_layers": 4,
        "num_heads": 8,
        "num_kv_heads": 2,
        "head_dim": 32,
        "num_experts": 8,
        "experts_per_token": 4,
        "expert_width": 128,
        "sliding_window": 128,
        "rope": RopeConfig(150000.0, kind="yarn", factor=32.0, truncate=False),
        "max_position": 131072,
        "rms_norm_eps": 1e-5,
        "glu": Glu(7.0, 1.702, 1.0),
        "attention_bias": True,
        "tie_word_embeddings": False,
        "quantization": None,
        "torch_dtype": "bfloat16",
        "eos_token_ids": (),
        "pad_token_id": None,
    }
    fields |= changes
    kinds = ("sliding_attention", "full_attention")
    fields.setdefault("layer_types", tuple(kinds[layer % 2] for layer in range(fields["num_layers"])))
    return ModelConfig(**fields)


def write_random_checkpoint(
    directory: Path,
    config: ModelConfig,
    *,
    dtype: str = "bfloat16",
    experts: str = "bfloat16",
    seed: int = 0,
    tokenizer_vocab: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress | None = None,
) -> ModelConfig:
    """Write the whole checkpoint into `directory` and return the config that reads back.

    `dtype` stores the weights; `experts` is "mxfp4" to pack the experts and else taken to be `dtype`. The tokenizer
    has `tokenizer_vocab` tokens (default: the model's), and its Harmony tokens rule the end and pad ids, whatever
    `config` says. The same seed gives the same bytes. Raises CheckpointError for a config that could not be loaded
    again, a directory that holds weights already, or a full disk; ValueError for an unknown `dtype` or `experts`.
    """
    if dtype not in STORED:
        raise ValueError(f"dtype must be one of {', '.join(STORED)}, got {dtype!r}")
    if experts not in ("mxfp4", "bfloat16", dtype):
        raise ValueError(f"experts must be {dtype} or mxfp4, got {experts!r}")
    packed = experts == "mxfp4"
    tokens = special_ids(tokenizer_vocab or config.vocab_size)
    # Parsed before a byte is written: what could not be loaded is not made.
    hub = hub_config(config, dtype=dtype, packed=packed, tokens=tokens)
    parse_config(Fields(directory / CONFIG, hub))
    noise = Noise(seed)

    def chunks(spec: TensorSpec) -> Iterator[torch.Tensor]:
        step = max(1, CHUNK_BYTES * spec.shape[0] // spec.nbytes)
        for first in range(0, spec.shape[0], step):
            rows = range(first, min(first + step, spec.shape[0]))
            yield noise.rows(spec.name, spec.shape, rows, TORCH_DTYPES[spec.dtype])

    specs = tensor_specs(config, STORED[dtype], packed)
    write_checkpoint(directory, specs, chunks, max_shard_bytes=max_shard_bytes, progress=progress)
    write_tokenizer(directory, tokenizer_vocab or config.vocab_size, config.max_position)
    write_configs(directory, hub, tokens)
    return load_config(directory)


def write_configs(directory: Path, hub: dict[str, Any], tokens: dict[str, int], **sampling: Any) -> None:
    """config.json, as `hub_config` gave it, and generation_config.json, where `sampling` overrides."""
    generation = {
        "bos_token_id": tokens["<|startoftext|>"],
        "do_sample": True,
        "eos_token_id": [tokens[name] for name in ENDS],
        "pad_token_id": tokens["<|endoftext|>"],
    }
    generation |= sampling
    write_json(directory / GENERATION_CONFIG, generation)
    write_json(directory / CONFIG, hub)


def tensor_specs(config: ModelConfig, dtype: str, packed: bool) -> list[TensorSpec]:
    """Every tensor of a gpt-oss checkpoint, in the order of the forward pass; `dtype` as safetensors spells it."""
    hidden, width, experts = config.hidden_size, config.expert_width, config.num_experts
    heads = {"q": config.num_heads * config.head_dim, "k": config.num_kv_heads * config.head_dim}
    heads["v"] = heads["k"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    packed_names = set()
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        for kind, wide in heads.items():
            shapes[f"{prefix}self_attn.{kind}_proj.weight"] = (wide, hidden)
            if config.attention_bias:
                shapes[f"{prefix}self_attn.{kind}_proj.bias"] = (wide,)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (hidden, heads["q"])
        if config.attention_bias:
            shapes[f"{prefix}self_attn.o_proj.bias"] = (hidden,)
        shapes[f"{prefix}self_attn.sinks"] = (config.num_heads,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        if layer in config.dense_layers:
            for name, shape in (("gate_up", (2 * config.dense_width, hidden)), ("down", (hidden, config.dense_width))):
                shapes[f"{prefix}mlp.{name}_proj.weight"] = shape
                if config.attention_bias:
                    shapes[f"{prefix}mlp.{name}_proj.bias"] = shape[:1]
            continue
        shapes[f"{prefix}mlp.router.weight"] = (experts, hidden)
        shapes[f"{prefix}mlp.router.bias"] = (experts,)
        for kind, inner, outer in (("gate_up", hidden, 2 * width), ("down", width, hidden)):
            name = f"{prefix}mlp.experts.{kind}_proj"
            if packed:
                shapes[f"{name}_blocks"] = (experts, outer, inner // MXFP4_BLOCK, MXFP4_BLOCK // 2)
                shapes[f"{name}_scales"] = (experts, outer, inner // MXFP4_BLOCK)
                packed_names |= {f"{name}_blocks", f"{name}_scales"}
            else:
                shapes[name] = (experts, inner, outer)
            shapes[f"{name}_bias"] = (experts, outer)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return [TensorSpec(name, "U8" if name in packed_names else dtype, shape) for name, shape in shapes.items()]


def hub_config(config: ModelConfig, *, dtype: str, packed: bool, tokens: dict[str, int]) -> dict[str, Any]:
    """config.json as the hub's gpt-oss files have it, key for key."""
    rope = config.rope
    scaling: dict[str, Any] = {"rope_type": rope.kind}
    if rope.kind == "yarn":
        scaling = {
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_max_position,
            "rope_type": "yarn",
            "truncate": rope.truncate,
        }
        if rope.attention_factor is not None:
            scaling["attention_factor"] = rope.attention_factor
    hub: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "eos_token_id": tokens["<|return|>"],
        "experts_per_token": config.experts_per_token,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initial_context_length": rope.original_max_position,
        "initializer_range": 0.02,
        "intermediate_size": config.expert_width,
        "layer_types": list(config.layer_types),
        "max_position_embeddings": config.max_position,
        "model_type": config.family,
        "num_attention_heads": config.num_heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "num_local_experts": config.num_experts,
        "output_router_logits": False,
        "pad_token_id": tokens["<|endoftext|>"],
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": scaling,
        "rope_theta": config.rope.theta,
        "router_aux_loss_coef": 0.9,
        "sliding_window": config.sliding_window,
        "swiglu_alpha": config.glu.alpha,
        "swiglu_limit": config.glu.limit,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if config.dense_layers:
        hub |= {"mlp_only_layers": list(config.dense_layers), "mlp_intermediate_size": config.dense_width}
    if packed:
        kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        hub["quantization_config"] = {"modules_to_not_convert": kept, "quant_method": "mxfp4"}
    return hub
