"""Which experts a token goes to, from the router's logits. T tokens, E experts, K experts a token."""

from __future__ import annotations

import torch


def route_topk_softmax(logits_TE: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """gpt-oss: the k largest logits, then softmax over those k alone.

    Returns ids_TK int64, largest logit first, and weights_TK float32, each row summing to 1.
    """
    top_TK, ids_TK = torch.topk(logits_TE.float(), k, dim=-1)
    return ids_TK, torch.softmax(top_TK, dim=-1)
