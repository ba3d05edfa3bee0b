"""The fused mixture-of-experts products against their twins in float64: dense and FP8 weights.

Without a GPU they run under Triton's interpreter, in float32 where the compiled kernels take bfloat16 into the matrix
instruction: rounding there and the pipeline are what these tests cannot see.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.experts import moe_experts
from yardmaster.kernels.gpu.experts_fp8 import moe_experts_fp8
from yardmaster.kernels.gpu.experts_plan import Plan, Tile
from yardmaster.kernels.reference import experts as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter cuts bfloat16 off where the hardware rounds; in float32 it shows every wrong index to six digits.
DTYPE, CLOSE = (torch.bfloat16, 8e-3) if DEVICE == "cuda" else (torch.float32, 3e-6)
GLUS = [Glu(7.0, 1.702, 1.0), Glu()]
SMALL = Tile(16, 8, 64, warps=1, stages=1)
PLANS = {
    "few": Plan(True, SMALL, SMALL),
    "few, split": Plan(True, SMALL, Tile(16, 8, 64, warps=1, stages=1, split=2)),
    "many": Plan(False, SMALL, Tile(32, 16, 64, warps=1, stages=1)),
    "many, narrow last": Plan(
        False, Tile(16, 16, 64, warps=1, stages=1, last_m=8), Tile(32, 32, 64, warps=1, stages=1, last_m=8)
    ),
}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN, or a large number."""
    real = torch.empty

    def empty(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = real(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 77)

    monkeypatch.setattr(torch, "empty", empty)


def _keys(tokens: int, k: int, experts: int, absent: bool) -> torch.Tensor:
    keys = torch.stack([torch.randperm(experts + absent)[:k] for _ in range(tokens)]) if tokens else torch.empty(0, k)
    return keys.long().to(DEVICE)


def _weights(experts: int, hidden: int, width: int) -> tuple[torch.Tensor, ...]:
    shapes = (experts, 2 * width, hidden), (experts, 2 * width), (experts, hidden, width), (experts, hidden)
    return tuple(
        (torch.randn(shape) * (3 / shape[-1] ** 0.5 if len(shape) == 3 else 1)).bfloat16().to(DEVICE)
        for shape in shapes
    )


def _agree(got: torch.Tensor, want: torch.Tensor, keys: torch.Tensor, experts: int) -> None:
    here = keys < experts
    assert got.shape == want.shape
    got, want = got[here].double(), want[here].double()
    assert (got - want).norm() <= CLOSE * want.norm()


def _double(weights: tuple[torch.Tensor | None, ...]) -> list[torch.Tensor | None]:
    return [None if weight is None else weight.double() for weight in weights]


@pytest.mark.parametrize("glu", GLUS, ids=["gpt-oss", "silu"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("tokens", "k", "experts", "hidden", "width"), [(1, 2, 3, 70, 9), (5, 3, 4, 64, 24), (11, 1, 1, 33, 17)]
)
def test_dense(tokens: int, k: int, experts: int, hidden: int, width: int, plan: str, glu: Glu) -> None:
    weights = _weights(experts, hidden, width)
    x = torch.randn(tokens, hidden).to(DEVICE, DTYPE)
    keys = _keys(tokens, k, experts, absent=experts > 1)
    got = moe_experts(x, keys, *weights, glu, plan=PLANS[plan])
    _agree(got, reference.moe_experts(x.double(), keys, *_double(weights), glu), keys, experts)


@pytest.mark.parametrize("plan", PLANS)
def test_tokens_may_be_named_and_biases_missing(plan: str) -> None:
    gate_up, _, down, _ = _weights(4, 40, 16)
    x = torch.randn(3, 40).to(DEVICE, DTYPE)
    token = torch.tensor([2, 0, 0, 1, 2, 2, 0], device=DEVICE)
    keys = torch.tensor([3, 1, 0, 1, 4, 1, 1], device=DEVICE)
    got = moe_experts(x, keys, gate_up, None, down, None, GLUS[0], token, plan=PLANS[plan])
    want = reference.moe_experts(x.double(), keys, gate_up.double(), None, down.double(), None, GLUS[0], token)
    _agree(got, want, keys, 4)


@pytest.mark.parametrize("tokens", [0, 1, 2, 9, 33])
def test_the_plan_chosen_by_itself(tokens: int) -> None:
    weights = _weights(2, 64, 16)
    x, keys = torch.randn(tokens, 64).to(DEVICE, DTYPE), _keys(tokens, 2, 2, absent=True)
    got = moe_experts(x, keys, *weights, GLUS[0])
    _agree(got, reference.moe_experts(x.double(), keys, *_double(weights), GLUS[0]), keys, 2)


def test_more_pairs_of_an_expert_than_a_tile_holds() -> None:
    weights = _weights(2, 64, 16)
    x, keys = torch.randn(19, 64).to(DEVICE, DTYPE), torch.zeros(19, 1, dtype=torch.int64, device=DEVICE)
    want = reference.moe_experts(x.double(), keys, *_double(weights), GLUS[0])
    for plan in PLANS.values():
        _agree(moe_experts(x, keys, *weights, GLUS[0], plan=plan), want, keys, 2)


@pytest.mark.parametrize("plan", ["few", "many"])
@pytest.mark.parametrize(("hidden", "width"), [(40, 8), (136, 130)])
def test_fp8(hidden: int, width: int, plan: str) -> None:
    wide = {name: Plan(p.few, *(Tile(16, 8, 128, warps=1, stages=1) for _ in range(2))) for name, p in PLANS.items()}
    gate_up, up_bias, down, down_bias = _weights(2, hidden, width)
    gate_up, down = gate_up.to(torch.float8_e4m3fn), down.to(torch.float8_e4m3fn)
    up_scales = torch.rand(2, 2, -(-width // 128), -(-hidden // 128), device=DEVICE) + 0.5
    down_scales = torch.rand(2, -(-hidden // 128), -(-width // 128), device=DEVICE) + 0.5
    x, keys = torch.randn(4, hidden).to(DEVICE, DTYPE), _keys(4, 1, 2, absent=True)
    got = moe_experts_fp8(x, keys, gate_up, up_scales, up_bias, down, down_scales, down_bias, GLUS[0], plan=wide[plan])
    up_bias, down_bias = up_bias.double(), down_bias.double()
    want = reference.moe_experts_fp8(
        x.double(), keys, gate_up, up_scales, up_bias, down, down_scales, down_bias, GLUS[0]
    )
    _agree(got, want, keys, 2)
