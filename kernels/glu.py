"""The gated activation between an expert's two matrix products: one formula, three numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Glu:
    """(up + shift) * gate * sigmoid(alpha * gate), gate at most `limit`, up between -limit and limit.

    gpt-oss (model card): limit 7, alpha 1.702, shift 1. The plain SiLU gate of other families is the default.
    """

    limit: float = inf
    alpha: float = 1.0
    shift: float = 0.0
