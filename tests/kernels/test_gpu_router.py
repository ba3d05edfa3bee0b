"""A router's logits and its choice in one launch, on the GPU or under Triton's interpreter, against the twin.

The interpreter runs programs one after the other: that the last to arrive sees what the others wrote, only a GPU shows.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from yardmaster.kernels.gpu.arrivals import arrivals
from yardmaster.kernels.gpu.router import router
from yardmaster.kernels.reference.routing import router as reference
from yardmaster.kernels.routing_rule import RoutingRule
from yardmaster.tests.kernels.odd_logits import odd_router

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
SOME = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])

RULES = {
    "gpt-oss": RoutingRule(4, "top_softmax"),
    "mixtral": RoutingRule(2, "softmax", renormalise=True),
    "phi": RoutingRule(2, "sparsemixer", jitter=0.3),
    "deepseek": RoutingRule(3, "sigmoid", renormalise=True, scale=2.5, groups=4, kept_groups=2),
}
MODELS = {  # experts, width, rule
    "gpt-oss-20b": (32, 2880, RoutingRule(4, "top_softmax")),
    "gpt-oss-120b": (128, 2880, RoutingRule(4, "top_softmax")),
    "mixtral": (8, 4096, RoutingRule(2, "softmax", renormalise=True)),
    "qwen3-30b": (128, 2048, RoutingRule(8, "softmax", renormalise=True)),
    "phi-mini": (16, 4096, RoutingRule(2, "sparsemixer", jitter=0.01)),
    "deepseek-v3": (256, 7168, RoutingRule(8, "sigmoid", True, 2.5, groups=8, kept_groups=4)),
    "kimi-k2": (384, 7168, RoutingRule(8, "sigmoid", renormalise=True, scale=2.827)),
}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN, or no expert's number."""
    real = torch.empty

    def empty(*args, **kwargs):
        made = real(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 99)

    monkeypatch.setattr(torch, "empty", empty)


def _inputs(tokens: int, width: int, experts: int, dtype: torch.dtype = torch.float32):
    return tuple(made.to(DEVICE) for made in odd_router(tokens, width, experts, dtype))


def _check(got, want) -> None:
    assert (got[0].dtype, got[1].dtype) == (torch.int64, torch.float32)
    same = (got[0] == want[0]).all(1)
    assert same.all() or (GPU and same.float().mean() > 0.999)  # logits of two last bits may tie in one alone
    torch.testing.assert_close(got[1][same], want[1][same].float(), rtol=3e-5, atol=1e-6)


@SOME
@given(
    name=st.sampled_from(sorted(RULES)),
    tokens=st.integers(0, 19),
    width=st.sampled_from([1, 40, 255, 256, 257, 700]),
    experts=st.sampled_from([8, 12, 20, 36]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    biased=st.booleans(),
    padded=st.booleans(),
    few=st.sampled_from([0, 64]),
)
def test_router(
    name: str, tokens: int, width: int, experts: int, dtype: torch.dtype, biased: bool, padded: bool, few: int
) -> None:
    rule = RULES[name]
    x, weight, bias = _inputs(tokens, width, experts, dtype)
    bias = bias if biased else None
    correction = torch.randn(experts, device=DEVICE) if rule.score == "sigmoid" and biased else None
    positions = torch.randint(-2, 3, (tokens,), device=DEVICE) if padded else None
    load = torch.arange(experts, device=DEVICE)
    want_load = load.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yardmaster.kernels.gpu.router.FEW", few)
        got = router(x, weight, bias, rule, correction, load, positions)
    wide = None if bias is None else bias.double()
    _check(got, reference(x.double(), weight.double(), wide, rule, correction, want_load, positions))
    assert torch.equal(load, want_load)
    if padded:
        assert (got[0][positions < 0] == experts).all()
        assert (got[1][positions < 0] == 0).all()
    assert not arrivals(x.device, 1).any()  # as they were found


@pytest.mark.parametrize(("width", "experts"), [(4133, 8), (301, 300)])
def test_wider_parts(width: int, experts: int) -> None:
    """More columns than there are parts of the usual width, and more experts than parts have registers for."""
    x, weight, bias = _inputs(3, width, experts)
    rule = RoutingRule(6, "sigmoid", renormalise=True)
    _check(router(x, weight, bias, rule), reference(x.double(), weight.double(), bias.double(), rule))


@pytest.mark.parametrize("few", [0, 64])
def test_logits_are_not_rounded(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 256.25 is 256, and the first of equals would be chosen."""
    monkeypatch.setattr("yardmaster.kernels.gpu.router.FEW", few)
    x = torch.tensor([[1.0, 0.25]], device=DEVICE, dtype=torch.bfloat16)
    weight = torch.tensor([[256.0, 0.0], [0.0, 0.0], [256.0, 1.0]], device=DEVICE, dtype=torch.bfloat16)
    ids, weights = router(x, weight, None, RoutingRule(2, "top_softmax"))
    assert ids.tolist() == [[2, 0]]
    torch.testing.assert_close(weights.cpu(), torch.tensor([[0.25, 0.0]]).softmax(1), rtol=1e-5, atol=0)


def test_weights_of_another_dtype_are_taken_as_they_are() -> None:
    x, weight, bias = _inputs(5, 100, 12)
    x, rule = x.bfloat16(), RULES["gpt-oss"]
    _check(router(x, weight, bias, rule), reference(x.double(), weight.double(), bias.double(), rule))


def test_a_token_is_routed_alike_in_any_company_and_order_of_memory() -> None:
    x, weight, bias = _inputs(21, 530, 12)
    x[4] = torch.nan  # a row of padding may be
    rule = RULES["gpt-oss"]
    ids, weights = router(x, weight, bias, rule)
    for first, last in ((0, 1), (5, 21), (13, 17)):
        alone = router(x[first:last], weight, bias, rule)
        assert torch.equal(alone[0], ids[first:last])
        assert torch.equal(alone[1], weights[first:last])  # to the last bit
    wider = torch.full((21, 1000), torch.nan, device=DEVICE)
    wider[:, 100:630] = x
    turned = router(wider[:, 100:630], weight.t().contiguous().t(), bias, rule)
    assert torch.equal(turned[0], ids)


def test_broken_tokens_stay_among_the_experts() -> None:
    broken = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 1e38])
    x = broken[torch.randint(5, (9, 30))].to(DEVICE)
    weight = torch.randn(12, 30, device=DEVICE)
    for rule in RULES.values():
        ids, _ = router(x, weight, None, rule)
        assert all(len(set(row)) == rule.k and set(row) <= set(range(12)) for row in ids.tolist())


def test_a_rule_that_does_not_fit_is_refused() -> None:
    x, weight, bias = _inputs(2, 8, 3)
    with pytest.raises(ValueError, match="4 experts a token of 3"):
        router(x, weight, bias, RULES["gpt-oss"])


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("model", MODELS)
def test_true_shapes(model: str) -> None:
    experts, width, rule = MODELS[model]
    for tokens in (1, 2, 7, 8, 9, 33, 64, 65, 1000, 8192):
        x, weight, bias = _inputs(tokens, width, experts, torch.bfloat16)
        correction = torch.rand(experts, device=DEVICE) if rule.score == "sigmoid" else None
        load = torch.zeros(experts, dtype=torch.int64, device=DEVICE)
        got = router(x, weight, bias, rule, correction, load)
        _check(got, reference(x.double(), weight.double(), bias.double(), rule, correction))
        assert torch.equal(load, got[0].flatten().bincount(minlength=experts))
        for _ in range(20):  # the last to arrive is another one each time
            again = router(x, weight, bias, rule, correction)
            assert torch.equal(again[0], got[0])
            assert torch.equal(again[1], got[1])


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
def test_capture_and_replay() -> None:
    experts, width, rule = MODELS["gpt-oss-120b"]
    x, weight, bias = _inputs(9, width, experts, torch.bfloat16)
    positions = torch.zeros(9, dtype=torch.int64, device=DEVICE)
    router(x, weight, bias, rule, None, None, positions)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = router(x, weight, bias, rule, None, None, positions)
    for _ in range(3):
        x.normal_()
        positions.random_(-2, 3)
        graph.replay()
        _check(got, reference(x.double(), weight.double(), bias.double(), rule, None, None, positions))
