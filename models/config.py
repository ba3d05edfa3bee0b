"""What a model is, in numbers: read from the checkpoint's config.json, checked, immutable. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernels.glu import Glu
from ..layers.rope_config import RopeConfig

__all__ = ["ModelConfig", "RopeConfig"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    family: str  # config.json's model_type
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    experts_per_token: int
    expert_width: int
    layer_types: tuple[str, ...]  # "full_attention" or "sliding_attention", one a layer
    sliding_window: int
    rope: RopeConfig
    max_position: int
    rms_norm_eps: float
    glu: Glu
    attention_bias: bool
    tie_word_embeddings: bool
    quantization: str | None  # "mxfp4" when the experts are stored packed
    torch_dtype: str  # the checkpoint's own dtype, "bfloat16", "float16" or "float32"
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    dense_layers: tuple[int, ...] = ()  # those with one gated product of `dense_width` in place of experts
    dense_width: int = 0
