"""On a GPU: the kernels of a mixture-of-experts layer at true shapes, against their twins in higher precision."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.experts import moe_experts
from yardmaster.kernels.gpu.experts_fp8 import moe_experts_fp8
from yardmaster.kernels.gpu.gather import gather
from yardmaster.kernels.gpu.group import group
from yardmaster.kernels.gpu.route import route
from yardmaster.kernels.gpu.weighted_sum import weighted_sum
from yardmaster.kernels.reference import experts as reference
from yardmaster.kernels.reference import permute
from yardmaster.kernels.reference.routing import route as reference_route
from yardmaster.kernels.routing_rule import RoutingRule
from yardmaster.tests.kernels.odd_logits import odd_logits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

TOKENS = (1, 2, 7, 32, 33, 128, 1000, 4096, 16384)
GPT_OSS = Glu(7.0, 1.702, 1.0)
ROUTING = {
    "gpt-oss-20b": (32, RoutingRule(4, "top_softmax")),
    "gpt-oss-120b": (128, RoutingRule(4, "top_softmax")),
    "mixtral": (8, RoutingRule(2, "softmax", renormalise=True)),
    "qwen3-30b": (128, RoutingRule(8, "softmax", renormalise=True)),
    "phi-mini": (16, RoutingRule(2, "sparsemixer", jitter=0.01)),
    "deepseek-v3": (256, RoutingRule(8, "sigmoid", renormalise=True, scale=2.5, groups=8, kept_groups=4)),
    "kimi-k2": (384, RoutingRule(8, "sigmoid", renormalise=True, scale=2.827)),
}
LAYERS = {  # experts, k, hidden, width; how many experts are held, for memory: the others' pairs are not here
    "gpt-oss-20b": (32, 4, 2880, 2880, 32, GPT_OSS),
    "gpt-oss-120b": (128, 4, 2880, 2880, 128, GPT_OSS),
    "mixtral": (8, 2, 4096, 14336, 8, Glu()),
    "qwen3-30b": (128, 8, 2048, 768, 128, Glu()),
    "deepseek-v3, an eighth": (256, 8, 7168, 2048, 32, Glu()),
}


@pytest.mark.parametrize("model", ROUTING)
@pytest.mark.parametrize("tokens", TOKENS)
def test_routing(model: str, tokens: int) -> None:
    experts, rule = ROUTING[model]
    logits = odd_logits(tokens, experts, 3).to("cuda")
    correction = torch.rand(experts, device="cuda") if rule.score == "sigmoid" else None
    ids, weights = route(logits, rule, correction)
    want_ids, want = reference_route(logits, rule, correction)
    same = (ids == want_ids).all(1)
    assert same.float().mean() > 0.999  # sigmoids of two last bits may tie in one and not in the other
    torch.testing.assert_close(weights[same], want[same], rtol=1e-5, atol=1e-6)

    order, counts = group(ids.flatten(), experts)
    want_order, want_counts = permute.group(ids.flatten(), experts)
    assert torch.equal(order, want_order)
    assert torch.equal(counts, want_counts)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("k", "width"), [(4, 2880), (8, 7168)])
def test_movement(tokens: int, k: int, width: int) -> None:
    rows = torch.randn(tokens * k, width, device="cuda", dtype=torch.bfloat16)
    index = torch.randint(tokens * k, (tokens * 2,), device="cuda")
    assert torch.equal(gather(rows, index), rows[index])
    weights = torch.rand(tokens, k, device="cuda")
    want = permute.weighted_sum(rows.double(), None, weights)
    torch.testing.assert_close(weighted_sum(rows, None, weights).double(), want, rtol=1e-5, atol=1e-5)
    positions = torch.randperm(tokens * k, device="cuda").view(tokens, k).clamp(max=tokens * k - 3)
    rows = rows[: tokens * k - 3]
    want = permute.weighted_sum(rows.double(), positions, weights)
    torch.testing.assert_close(weighted_sum(rows, positions, weights).double(), want, rtol=1e-5, atol=1e-5)


def _keys(tokens: int, experts: int, k: int, held: int) -> torch.Tensor:
    return torch.rand(tokens, experts, device="cuda").topk(k).indices.clamp(max=held)


def _agree(got: torch.Tensor, want: torch.Tensor, keys: torch.Tensor, held: int) -> None:
    here = keys < held
    difference = (got[here].float() - want[here].float()).norm() / want[here].float().norm().clamp_min(1e-20)
    assert not here.any() or difference < 1e-2


@pytest.mark.parametrize("model", LAYERS)
def test_plain_experts(model: str) -> None:
    experts, k, hidden, width, held, glu = LAYERS[model]
    gate_up = torch.empty(held, 2 * width, hidden, device="cuda", dtype=torch.bfloat16).normal_(0, hidden**-0.5)
    down = torch.empty(held, hidden, width, device="cuda", dtype=torch.bfloat16).normal_(0, width**-0.5)
    biases = [torch.randn(held, outs, device="cuda", dtype=torch.bfloat16) for outs in (2 * width, hidden)]
    for tokens in TOKENS:
        x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
        keys = _keys(tokens, experts, k, held)
        got = moe_experts(x, keys, gate_up, biases[0], down, biases[1], glu)
        want = reference.moe_experts(x.float(), keys, gate_up, biases[0], down, biases[1], glu)
        _agree(got, want, keys, held)
        again = moe_experts(x, keys, gate_up, biases[0], down, biases[1], glu)
        here = keys < held
        assert torch.equal(got[here], again[here]), "the same call gave other bits"


@pytest.mark.parametrize("model", ["qwen3-30b", "deepseek-v3, an eighth"])
def test_fp8_experts(model: str) -> None:
    experts, k, hidden, width, held, glu = LAYERS[model]
    gate_up = torch.randn(held, 2 * width, hidden, device="cuda").to(torch.float8_e4m3fn)
    down = torch.randn(held, hidden, width, device="cuda").to(torch.float8_e4m3fn)
    bands, columns = -(-width // 128), -(-hidden // 128)
    up_scales = (torch.rand(held, 2, bands, columns, device="cuda") + 0.5) * hidden**-0.5
    down_scales = (torch.rand(held, columns, bands, device="cuda") + 0.5) * width**-0.5
    for tokens in TOKENS[:7]:
        x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
        keys = _keys(tokens, experts, k, held)
        weights = gate_up, up_scales, None, down, down_scales, None
        got = moe_experts_fp8(x, keys, *weights, glu)
        _agree(got, reference.moe_experts_fp8(x.float(), keys, *weights, glu), keys, held)


def test_a_layer_can_be_captured_and_replayed() -> None:
    """No host synchronisation hides in it, and a replay sees new tokens."""
    gate_up = torch.randn(8, 256, 128, device="cuda", dtype=torch.bfloat16) / 11
    down = torch.randn(8, 128, 128, device="cuda", dtype=torch.bfloat16) / 11
    for tokens in (1, 300):
        x = torch.randn(tokens, 128, device="cuda", dtype=torch.bfloat16)
        logits = torch.randn(tokens, 8, device="cuda")

        def layer(x: torch.Tensor = x, logits: torch.Tensor = logits) -> torch.Tensor:
            ids, weights = route(logits, RoutingRule(2, "top_softmax"))
            rows = moe_experts(x, ids, gate_up, None, down, None, GPT_OSS)
            return weighted_sum(rows.flatten(0, 1), None, weights)

        layer()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer()
        x.normal_()
        logits.normal_()
        graph.replay()
        assert torch.equal(y, layer())
