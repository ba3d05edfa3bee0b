"""One pass of every kernel of a mixture-of-experts layer, small and at odd sizes, each held against its twin.

Made to run under compute-sanitizer, hundreds of times slower, where each tensor must be an allocation of its own:

    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    compute-sanitizer --error-exitcode 1 python -m yardmaster.bench.gpu_experts --one-pass
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from yardmaster.bench.gpu_moe import Bench
from yardmaster.bench.gpu_shapes import GPT_OSS, Shape
from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.experts_fp8 import moe_experts_fp8
from yardmaster.kernels.gpu.gather import gather
from yardmaster.kernels.gpu.group import group
from yardmaster.kernels.gpu.route import route
from yardmaster.kernels.gpu.router import router
from yardmaster.kernels.gpu.weighted_sum import weighted_sum
from yardmaster.kernels.reference import experts as experts_reference
from yardmaster.kernels.reference import permute, routing
from yardmaster.kernels.routing_rule import RoutingRule

TOLERANCE = 2e-2  # of bfloat16 arithmetic against float32; a wrong index is off by 1
LAYERS = (  # and with how many tokens: pairs found by looking and grouped, tiles of all sizes, a split product
    (Shape("mxfp4", 160, 96, 12, 3, True, GPT_OSS), (1, 9, 65, 300, 1600)),
    (Shape("mxfp4, long", 160, 2080, 4, 2, True, GPT_OSS), (1,)),
    (Shape("dense", 136, 72, 12, 3, False, Glu()), (1, 9, 65, 300, 1600)),
    (Shape("dense, long", 136, 2056, 4, 2, False, GPT_OSS), (1,)),
)
FP8, ROUTED, PAIRS = (1, 65, 700), (7, 67, 2100), (1, 100, 5001)
RULES = (
    RoutingRule(4, "top_softmax"),
    RoutingRule(2, "softmax", renormalise=True),
    RoutingRule(2, "sparsemixer", jitter=0.01),
    RoutingRule(3, "sigmoid", renormalise=True, scale=2.5, groups=4, kept_groups=2),
)


@torch.inference_mode()
def one_pass(device: str = "cuda") -> Iterator[tuple[str, float]]:
    """What was run, and its relative error: at least TOLERANCE, or NaN, is wrong."""
    yield from _routing(device)
    yield from _movement(device)
    for shape, sizes in LAYERS:
        bench = Bench(shape, 1, device)
        for tokens in sizes:
            yield f"layer {shape.name}, {tokens} tokens", bench.error(tokens)
    for tokens in FP8:
        yield f"experts fp8, {tokens} tokens", _fp8(tokens, device)


def _routing(device: str) -> Iterator[tuple[str, float]]:
    for rule in RULES:
        for tokens in ROUTED:
            logits_TE = torch.randn(tokens, 36, device=device)
            correction_E = torch.rand(36, device=device) if rule.score == "sigmoid" else None
            positions_T = torch.arange(tokens, device=device) - 1
            load_E, want_E = (torch.zeros(36, dtype=torch.int64, device=device) for _ in range(2))
            given = rule, correction_E
            got = route(logits_TE, *given, load_E, positions_T)
            want = routing.route(logits_TE, *given, want_E, positions_T)
            yield f"route {rule.score}, {tokens} tokens", max(_error(*pair) for pair in zip(got, want, strict=True))
            yield f"route {rule.score}, {tokens} tokens: load", _error(load_E, want_E)
        for tokens in (1, 19):
            # Odd multiples of 1/512 in any order of adding up: rounding decides between no two experts, nor at a
            # sparsemixer's edge, 2 % below the best.
            x_TD, weight_ED = (torch.randint(-8, 9, (n, 333), device=device).bfloat16() for n in (tokens, 36))
            bias_E = torch.full((36,), 1 / 512, device=device, dtype=torch.bfloat16)
            both = (twin(x_TD, weight_ED / 256, bias_E, rule) for twin in (router, routing.router))
            yield f"router {rule.score}, {tokens} tokens", max(_error(*pair) for pair in zip(*both, strict=True))


def _movement(device: str) -> Iterator[tuple[str, float]]:
    for pairs in PAIRS:
        keys_N = torch.randint(14, (pairs,), device=device)
        for got, want in zip(group(keys_N, 13), permute.group(keys_N, 13), strict=True):
            yield f"group, {pairs} pairs", _error(got, want)
        rows_RD = torch.randn(pairs, 133, device=device, dtype=torch.bfloat16)
        index_R = torch.randint(pairs, (2 * pairs + 1,), device=device)
        yield f"gather, {pairs} pairs", _error(gather(rows_RD, index_R), rows_RD[index_R])
        positions_TK = torch.randint(pairs + 1, (pairs, 3), device=device)  # the last of them is nowhere
        weights_TK = torch.rand(pairs, 3, device=device)
        want = permute.weighted_sum(rows_RD, positions_TK, weights_TK)
        yield f"weighted_sum, {pairs} pairs", _error(weighted_sum(rows_RD, positions_TK, weights_TK), want)


def _fp8(tokens: int, device: str) -> float:
    experts, hidden, width = 7, 200, 136
    up, down = (
        torch.randn(experts, outs, inner, device=device).to(torch.float8_e4m3fn)
        for outs, inner in ((2 * width, hidden), (hidden, width))
    )
    scales = [0.1 * torch.rand(experts, *rest, 2, device=device) + 0.02 for rest in ((2, 2), (2,))]
    weights = up, scales[0], None, down, scales[1], None
    x_TD = torch.randn(tokens, hidden, device=device, dtype=torch.bfloat16)
    keys_TK = torch.randint(experts, (tokens, 2), device=device)
    got = moe_experts_fp8(x_TD, keys_TK, *weights, Glu())
    return _error(got, experts_reference.moe_experts_fp8(x_TD.float(), keys_TK, *weights, Glu()))


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-20))
