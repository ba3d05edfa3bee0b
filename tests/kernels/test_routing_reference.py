"""The rules of all families, in plain torch, against transformers' own routers and against a loop in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.phimoe.modeling_phimoe import PhimoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from yardmaster.kernels.reference.routing import route
from yardmaster.kernels.routing_rule import RoutingRule

HIDDEN = 24


@pytest.mark.parametrize(("tokens", "experts", "k"), [(0, 8, 2), (1, 1, 1), (7, 32, 4), (13, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_over_the_chosen(tokens: int, experts: int, k: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(tokens, experts) * 4).to(dtype)
    ids, weights = route(logits, RoutingRule(k, "top_softmax"))
    assert (ids.dtype, weights.dtype) == (torch.int64, torch.float32)
    assert ids.shape == weights.shape == (tokens, k)
    for t in range(tokens):
        row = logits[t].double()
        chosen = ids[t].tolist()
        assert len(set(chosen)) == k
        assert sorted(row[chosen].tolist(), reverse=True) == row[chosen].tolist() == sorted(row.tolist())[::-1][:k]
        want = row[chosen].exp() / row[chosen].exp().sum()
        torch.testing.assert_close(weights[t].double(), want, rtol=1e-6, atol=1e-7)


def test_huge_logits_do_not_overflow() -> None:
    _, weights = route(torch.tensor([[1e4, -1e4, 1e4, 0.0]]), RoutingRule(3, "top_softmax"))
    assert weights.tolist() == [[0.5, 0.5, 0.0]]


ROUTERS = {
    "gpt-oss": (
        GptOssTopKRouter,
        {"num_experts_per_tok": 4, "num_local_experts": 32},
        RoutingRule(4, "top_softmax"),
    ),
    "mixtral": (
        MixtralTopKRouter,
        {"num_experts_per_tok": 2, "num_local_experts": 8},
        RoutingRule(2, "softmax", renormalise=True),
    ),
    "qwen3": (
        Qwen3MoeTopKRouter,
        {"num_experts_per_tok": 8, "num_experts": 128, "norm_topk_prob": True},
        RoutingRule(8, "softmax", renormalise=True),
    ),
    "qwen3, not renormalised": (
        Qwen3MoeTopKRouter,
        {"num_experts_per_tok": 3, "num_experts": 17, "norm_topk_prob": False},
        RoutingRule(3, "softmax"),
    ),
    "phi": (
        PhimoeTopKRouter,
        {"num_experts_per_tok": 2, "num_local_experts": 16, "router_jitter_noise": 0.01, "input_jitter_noise": 0.0},
        RoutingRule(2, "sparsemixer", jitter=0.01),
    ),
    "phi, wide": (
        PhimoeTopKRouter,
        {"num_experts_per_tok": 2, "num_local_experts": 16, "router_jitter_noise": 0.4, "input_jitter_noise": 0.0},
        RoutingRule(2, "sparsemixer", jitter=0.4),
    ),
    "deepseek": (
        DeepseekV3TopkRouter,
        {
            "num_experts_per_tok": 8,
            "num_local_experts": 64,
            "n_group": 8,
            "topk_group": 4,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
        RoutingRule(8, "sigmoid", renormalise=True, scale=2.5, groups=8, kept_groups=4),
    ),
    "kimi": (
        DeepseekV3TopkRouter,
        {
            "num_experts_per_tok": 8,
            "num_local_experts": 48,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.827,
        },
        RoutingRule(8, "sigmoid", renormalise=True, scale=2.827),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("family", ROUTERS)
def test_as_the_families_route(family: str) -> None:
    make, fields, rule = ROUTERS[family]
    router = make(SimpleNamespace(hidden_size=HIDDEN, **fields)).eval()
    for tensor in router.state_dict().values():
        tensor.normal_()
    correction = getattr(router, "e_score_correction_bias", None)
    for _ in range(100):
        logits, want_weights, want_ids = router(torch.randn(200, HIDDEN) / 3)
        ids, weights = route(logits, rule, correction)
        turned, _ = route(logits.flip(1), rule, None if correction is None else correction.flip(0))
        if torch.equal(ids.sort(1).values, (logits.shape[1] - 1 - turned).sort(1).values):
            break  # no two are equal at the edge of what is chosen
    place, want_place = ids.argsort(1), want_ids.argsort(1)  # some do not give the best first
    assert torch.equal(ids.gather(1, place), want_ids.gather(1, want_place))
    torch.testing.assert_close(
        weights.gather(1, place), want_weights.float().gather(1, want_place), rtol=1e-5, atol=1e-6
    )
    if correction is None:
        assert torch.equal(logits.gather(1, ids), logits.gather(1, ids).sort(1, descending=True).values)


@pytest.mark.parametrize("score", ["top_softmax", "softmax", "sigmoid", "sparsemixer"])
def test_equal_logits_go_to_the_lowest_experts_and_nan_stays_inside(score: str) -> None:
    rule = RoutingRule(2, score, jitter=0.01)  # type: ignore[arg-type]
    ids, _ = route(torch.zeros(3, 9), rule)
    assert ids.tolist() == [[0, 1]] * 3
    ids, _ = route(torch.full((2, 9), torch.nan), rule)
    assert all(len(set(row)) == 2 and set(row) <= set(range(9)) for row in ids.tolist())
    ids, _ = route(torch.tensor([[torch.nan, 1.0, 3.0, 2.0]]), rule)
    assert ids.tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ("fields", "experts", "message"),
    [
        ({"k": 0, "score": "softmax"}, 8, "between 1 and 64"),
        ({"k": 2, "score": "argmax"}, 8, "one of top_softmax"),
        ({"k": 3, "score": "sparsemixer"}, 8, "two experts"),
        ({"k": 2, "score": "softmax", "groups": 2}, 8, "groups of experts go with sigmoid"),
        ({"k": 2, "score": "sigmoid", "groups": 2, "kept_groups": 3}, 8, "cannot be kept"),
        ({"k": 2, "score": "sigmoid", "jitter": 1.0}, 8, "jitter"),
        ({"k": 9, "score": "softmax"}, 8, "9 experts a token of 8"),
        ({"k": 5, "score": "sigmoid", "groups": 2}, 8, "5 experts a token of 4"),
        ({"k": 1, "score": "sigmoid", "groups": 3}, 8, "do not make 3 equal groups"),
        ({"k": 1, "score": "sigmoid", "groups": 8}, 8, "two best"),
    ],
)
def test_what_makes_no_rule_is_refused(fields: dict[str, object], experts: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        route(torch.zeros(1, experts), RoutingRule(**fields))  # type: ignore[arg-type]
