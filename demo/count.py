"""How many weights a model has, and how many of them a token meets."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Count:
    """Parameters, biases and norms included. `active`: those that one token's forward pass reads.

    `packed_bytes` is the checkpoint with experts in MXFP4 (17 bytes for 32 weights) and all else in bfloat16.
    """

    embedding: int
    attention: int
    experts: int
    active_experts: int
    rest: int
    packed_bytes: int

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.experts + self.rest

    @property
    def active(self) -> int:
        return self.total - self.experts + self.active_experts

    @classmethod
    def of(cls, c: ModelConfig) -> Count:
        heads = c.head_dim * (c.num_heads + 2 * c.num_kv_heads)
        embedding = c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)
        output = c.head_dim * c.num_heads * c.hidden_size
        biases = heads + c.hidden_size if c.attention_bias else 0
        attention = c.num_layers * (heads * c.hidden_size + output + biases + c.num_heads)
        weights = 3 * c.hidden_size * c.expert_width
        expert = weights + 2 * c.expert_width + c.hidden_size
        router = c.num_experts * (c.hidden_size + 1)
        dense = c.dense_width * 3 * c.hidden_size + (2 * c.dense_width + c.hidden_size) * c.attention_bias
        sparse = c.num_layers - len(c.dense_layers)
        rest = sparse * router + len(c.dense_layers) * dense + (2 * c.num_layers + 1) * c.hidden_size
        each = sparse * expert
        packed = sparse * c.num_experts * weights
        others = embedding + attention + rest + c.num_experts * each - packed
        return cls(
            embedding,
            attention,
            c.num_experts * each,
            c.experts_per_token * each,
            rest,
            packed * 17 // 32 + 2 * others,
        )
