"""Which experts a token goes to, from the router's logits, by the rules of all families. Legend: T tokens, E experts,

K experts a token. The meaning of a rule: ../routing_rule.py.
"""

from __future__ import annotations

import torch

from ..routing_rule import RoutingRule


def route(
    logits_TE: torch.Tensor,
    rule: RoutingRule,
    correction_E: torch.Tensor | None = None,
    load_E: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_TK int64, best first, and weights_TK float32. `correction_E` float32 is added to sigmoids to choose by.

    `load_E` int64, when given, counts how often each expert was chosen, on top of what it has. NaN counts as the least
    of logits to choose by, so that ids are always experts.
    """
    logits_TE = logits_TE.float()
    rule.check(logits_TE.shape[1])
    if rule.score == "sparsemixer":
        ids_TK, weights_TK = _sparsemixer(logits_TE, rule.jitter)
    elif rule.score == "top_softmax":
        ids_TK = _largest(logits_TE, rule.k)
        weights_TK = logits_TE.gather(1, ids_TK).softmax(-1)
    else:
        scores_TE = logits_TE.softmax(-1) if rule.score == "softmax" else logits_TE.sigmoid()
        choice_TE = logits_TE if rule.score == "softmax" else scores_TE
        if correction_E is not None:
            choice_TE = choice_TE + correction_E
        ids_TK = _largest(_best_groups(choice_TE, rule), rule.k)
        weights_TK = scores_TE.gather(1, ids_TK)
    if load_E is not None:
        load_E.scatter_add_(0, ids_TK.flatten(), torch.ones_like(ids_TK).flatten())
    if rule.renormalise:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    return ids_TK, weights_TK * rule.scale


def _largest(values_TE: torch.Tensor, k: int) -> torch.Tensor:
    """torch.topk, but of equal values the first comes first."""
    values_TE = values_TE.masked_fill(values_TE.isnan(), float("-inf"))
    return values_TE.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def _best_groups(choice_TE: torch.Tensor, rule: RoutingRule) -> torch.Tensor:
    """-inf for all experts outside the best groups."""
    if rule.groups == 1:
        return choice_TE
    choice_TE = choice_TE.masked_fill(choice_TE.isnan(), float("-inf"))
    groups_TGe = choice_TE.unflatten(-1, (rule.groups, -1))
    kept = _largest(groups_TGe.topk(2, -1).values.sum(-1), rule.kept_groups)
    dropped_TG = torch.ones(groups_TGe.shape[:2], dtype=torch.bool, device=choice_TE.device).scatter_(1, kept, False)
    return groups_TGe.masked_fill(dropped_TG[..., None], float("-inf")).flatten(1)


def _sparsemixer(logits_TE: torch.Tensor, jitter: float) -> tuple[torch.Tensor, torch.Tensor]:
    """arXiv 2409.12136 at inference: the second round is as if the first expert were not there."""
    ids_T2, weights, rest_TE = _largest(logits_TE, 2), [], logits_TE
    for id_T1 in ids_T2.split(1, 1):
        best_T1 = rest_TE.gather(1, id_T1)
        far_TE = (best_T1 - logits_TE) / logits_TE.abs().clamp(min=best_T1) > 2 * jitter
        weights.append(rest_TE.masked_fill(far_TE, float("-inf")).softmax(-1).gather(1, id_T1))
        rest_TE = rest_TE.scatter(1, id_T1, float("-inf"))
    return ids_T2, torch.cat(weights, 1)
