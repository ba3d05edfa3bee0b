"""How a family of models chooses experts from the router's logits: a handful of numbers, read off its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Score = Literal["top_softmax", "softmax", "sigmoid", "sparsemixer"]


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """k experts a token. The choice always is by the largest scores, the lowest expert where two are equal.

    - top_softmax: the k largest logits, softmax over those alone (gpt-oss).
    - softmax: over all experts; then `renormalise` makes the chosen ones add up to one (Mixtral, Qwen3-MoE).
    - sigmoid: of each logit, chosen by it plus a learned correction, from the `kept_groups` of `groups` groups whose
      two best add up to most; weights are without the correction, renormalised if asked (DeepSeek-V3, Kimi-K2).
    - sparsemixer: two experts, each weighed by the softmax over those near it, nearer than 2 `jitter` (Phi-MoE).

    Weights are multiplied by `scale`. Raises ValueError for numbers that make no rule.
    """

    k: int
    score: Score
    renormalise: bool = False
    scale: float = 1.0
    groups: int = 1
    kept_groups: int = 1
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise ValueError(f"a routing score is one of {', '.join(get_args(Score))}, got {self.score!r}")
        if not 1 <= self.k <= 64:
            raise ValueError(f"experts a token must be between 1 and 64, got {self.k}")
        if not 1 <= self.kept_groups <= self.groups:
            raise ValueError(f"of {self.groups} groups of experts {self.kept_groups} cannot be kept")
        if self.groups > 1 and self.score != "sigmoid":
            raise ValueError(f"groups of experts go with sigmoid scores, not with {self.score}")
        if self.score == "sparsemixer" and self.k != 2:
            raise ValueError(f"sparsemixer chooses two experts, got {self.k}")
        if not 0.0 <= self.jitter < 1.0:
            raise ValueError(f"jitter must be at least 0 and below 1, got {self.jitter}")

    def check(self, experts: int) -> None:
        """Raises ValueError when so many experts cannot be chosen from by this rule."""
        if experts % self.groups:
            raise ValueError(f"{experts} experts do not make {self.groups} equal groups")
        size = experts // self.groups
        if self.k > size * self.kept_groups:
            raise ValueError(f"{self.k} experts a token of {size * self.kept_groups} that may be chosen")
        if self.groups > 1 and size < 2:
            raise ValueError("a group is judged by its two best experts, and has one")
