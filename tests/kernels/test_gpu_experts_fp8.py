"""The fused mixture-of-experts products with FP8 weights against their twin in float64.

Without a GPU under Triton's interpreter, in float32: see test_gpu_experts.py for what that cannot show.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.experts_fp8 import moe_experts_fp8
from yardmaster.kernels.gpu.experts_plan import Plan, Tile
from yardmaster.kernels.reference import experts as reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE, CLOSE = (torch.bfloat16, 1e-2) if DEVICE == "cuda" else (torch.float32, 1e-5)
GPT_OSS = Glu(7.0, 1.702, 1.0)
WHOLE, HALF = Tile(16, 8, 128, warps=1, stages=1), Tile(16, 8, 64, warps=1, stages=1)
PLANS = {
    "few": Plan(True, WHOLE, Tile(16, 8, 128, warps=1, stages=1, split=2)),
    "few, half a square a step": Plan(True, HALF, HALF),
    "many": Plan(False, WHOLE, HALF),
}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN, or a large number."""
    real = torch.empty

    def empty(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = real(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 77)

    monkeypatch.setattr(torch, "empty", empty)


def _weights(experts: int, outs: int, inner: int) -> torch.Tensor:
    return (torch.randn(experts, outs, inner) * (8 / inner**0.5)).to(torch.float8_e4m3fn).to(DEVICE)


def _check(tokens: int, experts: int, hidden: int, width: int, plan: Plan | None, biases: bool = True) -> None:
    """Scales differ severalfold from square to square, and between a gate's and its up's."""
    gate_up, down = _weights(experts, 2 * width, hidden), _weights(experts, hidden, width)
    bands, columns = -(-width // 128), -(-hidden // 128)
    up_scales = torch.exp(torch.randn(experts, 2, bands, columns, device=DEVICE))
    down_scales = torch.exp(torch.randn(experts, columns, bands, device=DEVICE))
    up_bias = torch.randn(experts, 2 * width, device=DEVICE).bfloat16() if biases else None
    down_bias = torch.randn(experts, hidden, device=DEVICE).bfloat16() if biases else None
    x = torch.randn(tokens, hidden).to(DEVICE, DTYPE)
    keys = torch.randint(0, experts + 1, (tokens, 2)).to(DEVICE)
    got = moe_experts_fp8(x, keys, gate_up, up_scales, up_bias, down, down_scales, down_bias, GPT_OSS, plan=plan)
    wide = [None if bias is None else bias.double() for bias in (up_bias, down_bias)]
    want = reference.moe_experts_fp8(x.double(), keys, gate_up, up_scales, wide[0], down, down_scales, wide[1], GPT_OSS)
    # Where large terms cancel float32 itself loses digits, how many is a matter of the order of adding up:
    # the kernel may lose four times as many there, and no more.
    narrow = [None if bias is None else bias.float() for bias in (up_bias, down_bias)]
    lost = torch.zeros_like(want[..., 0])
    for _ in range(8):
        order = torch.cat([start + torch.randperm(min(128, hidden - start)) for start in range(0, hidden, 128)])
        turned = gate_up.view(torch.uint8)[..., order].view(gate_up.dtype)
        plain = reference.moe_experts_fp8(
            x[:, order].float(), keys, turned, up_scales, narrow[0], down, down_scales, narrow[1], GPT_OSS
        )
        lost = lost.maximum((plain - want).norm(dim=-1))
    here = keys < experts
    assert got.shape == want.shape
    for row, wanted, most in zip(got[here].double(), want[here], lost[here], strict=True):
        assert (row - wanted).norm() <= CLOSE * wanted.norm() + 4 * most


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("hidden", "width"), [(40, 8), (136, 130), (256, 128)])
def test_scales_and_their_squares(hidden: int, width: int, plan: str) -> None:
    _check(3, 2, hidden, width, PLANS[plan])


@pytest.mark.parametrize("tokens", [0, 1, 5, 33])
def test_the_plan_chosen_by_itself(tokens: int) -> None:
    _check(tokens, 3, 70, 9, None, biases=False)


def test_every_value_of_a_weight() -> None:
    """All 256 bytes, subnormals among them, come through the conversion."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    gate_up = torch.ones(1, 2, 256).to(torch.float8_e4m3fn).to(DEVICE)
    down = codes.view(1, 256, 1).to(DEVICE)
    x = torch.full((1, 256), 2.0).to(DEVICE, DTYPE)
    ones = torch.ones(1, 2, 1, 2, device=DEVICE)
    key = torch.zeros(1, 1, dtype=torch.int64, device=DEVICE)
    got = moe_experts_fp8(x, key, gate_up, ones, None, down, ones[:, :, 0, :1], None, GPT_OSS)[0, 0].double().cpu()
    want = codes.double() * (8 * 7 * torch.sigmoid(torch.tensor(1.702 * 7, dtype=torch.float64)))  # both at their limit
    nan = want.isnan()
    assert DEVICE == "cpu" or torch.equal(got.isnan(), nan)  # for the interpreter they are numbers
    torch.testing.assert_close(got[~nan], want[~nan], rtol=CLOSE, atol=0)
