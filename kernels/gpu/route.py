"""Which experts each token goes to, in one launch: all rules of ../routing_rule.py. Twin: ../reference/routing.py.

A program has a few tokens and all experts in registers; the k best are found one after the other. Bytes: the logits
once, the ids and weights once; for 8,192 tokens of 128 experts 4.6 MB, about 2 us of memory time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..routing_rule import RoutingRule

ELEMENTS = 512  # logits of one program


def route(
    logits_TE: torch.Tensor, rule: RoutingRule, correction_E: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_TK int64, best first, and weights_TK float32, as the twin."""
    tokens, experts = logits_TE.shape
    rule.check(experts)
    ids_TK = torch.empty((tokens, rule.k), dtype=torch.int64, device=logits_TE.device)
    weights_TK = torch.empty((tokens, rule.k), dtype=torch.float32, device=logits_TE.device)
    if not tokens:
        return ids_TK, weights_TK
    width = triton.next_power_of_2(experts)
    rows = max(1, ELEMENTS // width)
    _route[(triton.cdiv(tokens, rows),)](
        logits_TE.contiguous(),
        correction_E,
        ids_TK,
        weights_TK,
        tokens,
        experts,
        rule.scale,
        rule.jitter,
        K=rule.k,
        K_BLOCK=triton.next_power_of_2(rule.k),
        SCORE=rule.score,
        RENORMALISE=rule.renormalise,
        GROUPS=rule.groups,
        GROUPS_BLOCK=triton.next_power_of_2(rule.groups),
        KEPT=rule.kept_groups,
        ROWS=rows,
        WIDTH=width,
        num_warps=1,  # its reductions stay among lanes
    )
    return ids_TK, weights_TK


@triton.jit(do_not_specialize=["tokens"])
def _route(
    logits,
    correction,
    ids,
    weights,
    tokens,
    experts,
    scale,
    jitter,
    K: tl.constexpr,
    K_BLOCK: tl.constexpr,
    SCORE: tl.constexpr,
    RENORMALISE: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUPS_BLOCK: tl.constexpr,
    KEPT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    expert_E = tl.arange(0, WIDTH)
    real_RE = (row_R[:, None] < tokens) & (expert_E[None, :] < experts)
    logit_RE = tl.load(logits + row_R[:, None] * experts + expert_E[None, :], mask=real_RE, other=float("-inf"))
    logit_RE = logit_RE.to(tl.float32)
    here_RE = tl.broadcast_to(expert_E[None, :] < experts, (ROWS, WIDTH))

    score_RE = logit_RE
    if SCORE == "softmax":
        score_RE = tl.exp(logit_RE - tl.max(logit_RE, 1)[:, None])
        score_RE = score_RE / tl.sum(score_RE, 1)[:, None]
    if SCORE == "sigmoid":
        score_RE = 1 / (1 + tl.exp(-logit_RE))
    choice_RE = score_RE if SCORE == "sigmoid" else logit_RE
    if correction is not None:
        choice_RE += tl.load(correction + expert_E, mask=expert_E < experts, other=0.0)[None, :]
    choice_RE = tl.where(choice_RE == choice_RE, choice_RE, float("-inf"))

    if GROUPS > 1:
        size = experts // GROUPS
        group_G = tl.arange(0, GROUPS_BLOCK)
        in_EG = (expert_E // size)[:, None] == group_G[None, :]
        first_RG = tl.zeros((ROWS, GROUPS_BLOCK), dtype=tl.float32) + float("-inf")
        both_RG = first_RG
        for group in tl.static_range(GROUPS):
            mine_RE = tl.where((expert_E // size == group)[None, :] & here_RE, choice_RE, float("-inf"))
            best_R = tl.max(mine_RE, 1)
            at_R = tl.min(tl.where(mine_RE == best_R[:, None], expert_E[None, :], WIDTH), 1)
            second_R = tl.max(tl.where(expert_E[None, :] == at_R[:, None], float("-inf"), mine_RE), 1)
            both_RG = tl.where(group_G[None, :] == group, (best_R + second_R)[:, None], both_RG)
        taken_RG = group_G[None, :] >= GROUPS
        taken_RG = tl.broadcast_to(taken_RG, (ROWS, GROUPS_BLOCK))
        kept_RG = taken_RG & False
        for _ in tl.static_range(KEPT):
            best_R = tl.max(tl.where(taken_RG, float("-inf"), both_RG), 1)
            open_RG = (both_RG == best_R[:, None]) & (taken_RG == 0)
            at_R = tl.min(tl.where(open_RG, group_G[None, :], GROUPS_BLOCK), 1)
            chosen_RG = group_G[None, :] == at_R[:, None]
            taken_RG = taken_RG | chosen_RG
            kept_RG = kept_RG | chosen_RG
        kept_RE = tl.sum((kept_RG[:, None, :] & in_EG[None, :, :]).to(tl.int32), 2) > 0
        here_RE = here_RE & kept_RE

    k_K = tl.arange(0, K_BLOCK)
    id_RK = tl.zeros((ROWS, K_BLOCK), dtype=tl.int32)
    weight_RK = tl.zeros((ROWS, K_BLOCK), dtype=tl.float32) + float("-inf")
    for k in tl.static_range(K):
        best_R = tl.max(tl.where(here_RE, choice_RE, float("-inf")), 1)
        open_RE = here_RE & (choice_RE == best_R[:, None])
        id_R = tl.min(tl.where(open_RE, expert_E[None, :], WIDTH), 1)
        chosen_RE = expert_E[None, :] == id_R[:, None]
        if SCORE == "sparsemixer":
            # Softmax over those near the best of the ones still here: at the best its numerator is one.
            far_RE = (best_R[:, None] - logit_RE) / tl.maximum(tl.abs(logit_RE), best_R[:, None]) > 2 * jitter
            near_RE = tl.where(here_RE & (far_RE == 0), tl.exp(logit_RE - best_R[:, None]), 0.0)
            weight_R = 1 / tl.sum(near_RE, 1)
        else:
            weight_R = tl.sum(tl.where(chosen_RE, score_RE, 0.0), 1)
        id_RK = tl.where(k_K[None, :] == k, id_R[:, None], id_RK)
        weight_RK = tl.where(k_K[None, :] == k, weight_R[:, None], weight_RK)
        here_RE = here_RE & (chosen_RE == 0)

    if SCORE == "top_softmax":
        weight_RK = tl.exp(weight_RK - tl.max(weight_RK, 1)[:, None])
        weight_RK = weight_RK / tl.sum(weight_RK, 1)[:, None]
    if RENORMALISE:
        total_R = tl.sum(tl.where(k_K[None, :] < K, weight_RK, 0.0), 1)
        weight_RK = weight_RK / (total_R + 1e-20)[:, None]
    place_RK = row_R[:, None] * K + k_K[None, :]
    mask_RK = (row_R[:, None] < tokens) & (k_K[None, :] < K)
    tl.store(ids + place_RK, id_RK.to(tl.int64), mask=mask_RK)
    tl.store(weights + place_RK, weight_RK * scale, mask=mask_RK)
