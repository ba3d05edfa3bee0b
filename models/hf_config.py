"""Reads what a model is from its Hugging Face config.json, believing nothing. Pure: no torch.

Both spellings of the rotary embedding load: `rope_theta` with `rope_scaling` (files on the hub) and `rope_parameters`
(what transformers 5 writes). Every size has a bound far above any published model, so that a damaged or hostile file is
refused here, before anything is allocated by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from ..kernels.glu import Glu
from ..weights.errors import CheckpointError
from ..weights.strict_json import read_json
from .config import ModelConfig, RopeConfig
from .config_fields import Fields

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
JSON_BYTES = 1 << 20

MOST_PARAMETERS = 10**13
LAYER_TYPES = ("full_attention", "sliding_attention")
DTYPES = ("bfloat16", "float16", "float32")
MXFP4_BLOCK = 32


def load_config(path: Path) -> ModelConfig:
    """The model of the checkpoint directory `path`. The end tokens of generation_config.json, where it has any, win.

    Raises CheckpointError: one line that names the file, the field, and the mend.
    """
    file = path / CONFIG
    fields = Fields(file, read_json(file, JSON_BYTES))
    generation = path / GENERATION_CONFIG
    if generation.exists() or generation.is_symlink():
        return parse_config(fields, Fields(generation, read_json(generation, JSON_BYTES)))
    return parse_config(fields, None)


def parse_config(fields: Fields, generation: Fields | None = None) -> ModelConfig:
    """The model that the fields of a config.json describe, and those of a generation_config.json beside it."""
    family = fields.choice("model_type", tuple(FAMILIES))
    architecture, parse = FAMILIES[family]
    for name in fields.strings("architectures", most=8, default=()):
        if name != architecture:
            raise fields.wrong(
                "architectures", f"names {name!r}, supported: {architecture}", "choose a supported model"
            )
    vocab_size = fields.integer("vocab_size", 1, 1 << 22)
    eos = fields.integers("eos_token_id", 0, vocab_size - 1, most=64, default=())
    if generation is not None:
        eos = generation.integers("eos_token_id", 0, vocab_size - 1, most=64, default=eos)
    config = parse(fields, vocab_size, tuple(dict.fromkeys(eos)))
    if parameters(config) > MOST_PARAMETERS:
        fact = f"describes {parameters(config):.1e} parameters, more than any model has"
        raise CheckpointError(fields.file, fact, mend="restore the file as its publisher wrote it")
    return config


def parameters(config: ModelConfig) -> int:
    """How many weights a model has, norms and biases left out."""
    attention = config.hidden_size * config.head_dim * 2 * (config.num_heads + config.num_kv_heads)
    experts = config.num_experts * config.hidden_size * (3 * config.expert_width + 1)
    dense = len(config.dense_layers) * config.hidden_size * 3 * config.dense_width
    sparse = (config.num_layers - len(config.dense_layers)) * experts
    return config.num_layers * attention + sparse + dense + 2 * config.vocab_size * config.hidden_size


def _gpt_oss(fields: Fields, vocab_size: int, eos: tuple[int, ...]) -> ModelConfig:
    num_layers = fields.integer("num_hidden_layers", 1, 1024)
    num_heads = fields.integer("num_attention_heads", 1, 1024)
    num_kv_heads = fields.integer("num_key_value_heads", 1, 1024, default=num_heads)
    if num_heads % num_kv_heads:
        raise fields.wrong("num_key_value_heads", f"is {num_kv_heads}, which does not divide {num_heads} heads")
    head_dim = fields.integer("head_dim", 2, 1024)
    if head_dim % 2:
        raise fields.wrong("head_dim", f"is {head_dim}; rotary embedding needs it even")
    num_experts = fields.integer("num_local_experts", 1, 8192)
    hidden_size = fields.integer("hidden_size", 1, 1 << 17)
    expert_width = fields.integer("intermediate_size", 1, 1 << 18)
    max_position = fields.integer("max_position_embeddings", 1, 1 << 24, default=131072)
    layer_types = _layer_types(fields, num_layers)
    sliding_window = fields.integer("sliding_window", 1, 1 << 24, default=None)
    if sliding_window is None and "sliding_attention" in layer_types:
        raise fields.wrong("sliding_window", "is missing, and layer_types has sliding layers")
    fields.choice("hidden_act", ("silu",), default="silu")
    dense_layers = fields.integers("mlp_only_layers", 0, num_layers - 1, most=1024, default=())
    if len(set(dense_layers)) == num_layers:
        raise fields.wrong("mlp_only_layers", "names every layer; a mixture of experts has one that is")
    dense_width = fields.integer("mlp_intermediate_size", 1, 1 << 20) if dense_layers else 0
    quantization = _quantization(fields)
    if quantization == "mxfp4" and (hidden_size % MXFP4_BLOCK or expert_width % MXFP4_BLOCK):
        fact = f"is mxfp4, but {hidden_size} x {expert_width} is no multiple of its blocks of {MXFP4_BLOCK}"
        raise fields.wrong("quantization_config.quant_method", fact)
    return ModelConfig(
        family="gpt_oss",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_experts=num_experts,
        experts_per_token=fields.integer("num_experts_per_tok", 1, num_experts),
        expert_width=expert_width,
        layer_types=layer_types,
        sliding_window=max_position if sliding_window is None else sliding_window,
        rope=_rope(fields, max_position),
        max_position=max_position,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-12, 0.1, default=1e-5),
        glu=Glu(
            limit=fields.number("swiglu_limit", 1e-3, 1e6, default=7.0),
            alpha=fields.number("swiglu_alpha", 1e-3, 1e3, default=1.702),
            shift=1.0,
        ),
        attention_bias=fields.boolean("attention_bias", default=True),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        quantization=quantization,
        torch_dtype=fields.choice("dtype", DTYPES, default=None)
        or fields.choice("torch_dtype", DTYPES, default="bfloat16"),
        eos_token_ids=eos,
        pad_token_id=fields.integer("pad_token_id", 0, vocab_size - 1, default=None),
        dense_layers=tuple(sorted(set(dense_layers))),
        dense_width=dense_width,
    )


# model_type -> (the name in `architectures`, what parses the rest)
FAMILIES: dict[str, tuple[str, Callable[[Fields, int, tuple[int, ...]], ModelConfig]]] = {
    "gpt_oss": ("GptOssForCausalLM", _gpt_oss),
}


def _layer_types(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """Missing: sliding and full in turn, sliding first (the rule of the model's reference code)."""
    types = fields.strings("layer_types", most=1024, default=None)
    if types is None:
        return tuple(LAYER_TYPES[layer % 2 == 0] for layer in range(num_layers))
    for kind in types:
        if kind not in LAYER_TYPES:
            raise fields.wrong("layer_types", f"has {kind!r}, supported: {', '.join(LAYER_TYPES)}")
    if len(types) != num_layers:
        raise fields.wrong("layer_types", f"lists {len(types)} layers, num_hidden_layers is {num_layers}")
    return types


def _quantization(fields: Fields) -> str | None:
    nested = fields.nested("quantization_config", default=None)
    return None if nested is None else nested.choice("quant_method", ("mxfp4",))


def _rope(fields: Fields, max_position: int) -> RopeConfig:
    new = "rope_parameters" in fields
    if not new and "rope_scaling" not in fields:
        # transformers would take a default of its own here, and one that has changed between its releases.
        raise fields.wrong("rope_scaling", "is missing, and so is rope_parameters")
    rope = fields.nested("rope_parameters" if new else "rope_scaling")
    holder = rope if "rope_theta" in rope else fields
    theta = holder.number("rope_theta", 1.0 + 1e-6, 1e12)
    kind = rope.choice("type" if "type" in rope and "rope_type" not in rope else "rope_type", ("default", "yarn"))
    if rope.number("partial_rotary_factor", 0.0, 1.0, default=1.0) != 1.0:
        raise rope.wrong("partial_rotary_factor", "is not 1, the only value supported", "choose a supported model")
    if kind == "default":
        return RopeConfig(theta)
    factor = rope.number("factor", 1.0, 1e5)
    beta_fast = rope.number("beta_fast", 1e-6, 1e6, default=32.0)
    beta_slow = rope.number("beta_slow", 1e-6, 1e6, default=1.0)
    if beta_fast < beta_slow:
        raise rope.wrong("beta_fast", f"is {beta_fast:g}, less than beta_slow {beta_slow:g}")
    return RopeConfig(
        theta,
        kind="yarn",
        factor=factor,
        original_max_position=rope.integer("original_max_position_embeddings", 1, 1 << 24, default=max_position),
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        truncate=rope.boolean("truncate", default=True),
        attention_factor=rope.number("attention_factor", 1e-3, 1e3, default=_attention_factor(rope, factor)),
    )


def _attention_factor(rope: Fields, factor: float) -> float | None:
    """The ratio that `mscale` and `mscale_all_dim` give, where a file has both; None leaves YaRN's own rule."""
    mscale = rope.number("mscale", 0.0, 1e3, default=0.0)
    all_dim = rope.number("mscale_all_dim", 0.0, 1e3, default=0.0)
    if not mscale or not all_dim:
        return None
    return (0.1 * mscale * math.log(factor) + 1.0) / (0.1 * all_dim * math.log(factor) + 1.0)
