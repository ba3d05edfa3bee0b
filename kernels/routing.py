"""Which experts a token goes to: the door to the fast path of a device. Twin: reference/routing.py."""

from __future__ import annotations

import torch

from .device import triton_runs_on
from .reference import routing as reference
from .routing_rule import RoutingRule


def route(
    logits_TE: torch.Tensor,
    rule: RoutingRule,
    correction_E: torch.Tensor | None = None,
    load_E: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in any float dtype -> ids_TK int64, best first, and weights_TK float32; choices are added to `load_E`."""
    if triton_runs_on(logits_TE.device):
        from .gpu.route import route as gpu

        return gpu(logits_TE, rule, correction_E, load_E)
    return reference.route(logits_TE, rule, correction_E, load_E)
