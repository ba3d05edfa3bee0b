"""The numbers of a rotary embedding. No torch: the planner and the front end read it too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding. `kind` is "default" or "yarn" (arXiv:2309.00071); the rest of the fields are YaRN's."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None  # None: 0.1 ln(factor) + 1
