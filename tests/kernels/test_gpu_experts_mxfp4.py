"""MXFP4 experts against their twin in float64, and every code under every scale.

Without a GPU the kernels run under Triton's interpreter, where a portable branch does on the same bytes what inline PTX
does in the compiled kernel; the PTX itself is run by test_gpu_mxfp4_layout.py. What neither can see is the order in
which the compiler hands registers to the matrix instruction: that is for the tests marked gpu.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.experts_mxfp4 import moe_experts_mxfp4
from yardmaster.kernels.gpu.experts_plan import Plan, Tile
from yardmaster.kernels.gpu.mxfp4_layout import LARGEST_SCALE, Swizzled
from yardmaster.kernels.gpu.weights_mxfp4 import mxfp4_tile
from yardmaster.kernels.reference import experts as reference
from yardmaster.kernels.reference.mxfp4 import unpack

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# The interpreter cuts bfloat16 off where the hardware rounds; in float32 it shows every wrong index to six digits.
DTYPE, CLOSE = (torch.bfloat16, 8e-3) if ON_GPU else (torch.float32, 3e-6)
GPT_OSS, SILU = Glu(7.0, 1.702, 1.0), Glu()
SMALL = Tile(32, 8, 64, warps=1, stages=1)
PLANS = {
    "few": Plan(True, SMALL, SMALL),
    "few, split": Plan(True, SMALL, Tile(32, 8, 64, warps=1, stages=1, split=2)),
    "many": Plan(False, SMALL, Tile(32, 16, 128, warps=1, stages=1)),
}


@triton.jit
def _tile_out(words, scales, out, expert, n, step, rows, columns, N: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr):
    tile = mxfp4_tile(words, scales, expert, n, step, rows, columns, N, K, WIDE)
    tl.store(out + tl.arange(0, N)[:, None] * K + tl.arange(0, K)[None, :], tile.to(tl.float32))


def _tile(weights: Swizzled, expert: int, n: int, step: int, size: tuple[int, int]) -> torch.Tensor:
    out = torch.full(size, float("nan"), device=DEVICE)
    arguments = weights.words, weights.scales, out, expert, n, step, weights.rows, weights.columns
    _tile_out[(1,)](*arguments, N=size[0], K=size[1], WIDE=not ON_GPU, num_warps=1)
    return out


def _swizzled(blocks: torch.Tensor, scales: torch.Tensor, gated: bool) -> Swizzled:
    store = Swizzled.empty(len(blocks), blocks.shape[1], 32 * blocks.shape[2], gated, DEVICE)
    for e in range(len(blocks)):
        store.put(e, blocks[e], scales[e])
    return store


def _packed(*shape: int, low: int = 0, high: int = LARGEST_SCALE + 1) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = torch.randint(256, (*shape, 16), dtype=torch.uint8, device=DEVICE)
    return blocks, torch.randint(low, high, shape, dtype=torch.uint8, device=DEVICE)


def test_every_code_under_every_scale_exactly() -> None:
    groups = LARGEST_SCALE + 1
    blocks = torch.arange(16, dtype=torch.uint8).repeat(16, groups, 1) * 16 + 15  # high nibbles all codes, low ones 15
    blocks[8:] = torch.arange(16, dtype=torch.uint8) * 17
    scales = torch.arange(groups, dtype=torch.uint8).repeat(16, 1)
    blocks, scales = blocks[None].to(DEVICE), scales[None].to(DEVICE)
    want = torch.zeros(16, -(-groups // 2) * 64, device=DEVICE)
    want[:, : 32 * groups] = unpack(blocks[0], scales[0], torch.float32)
    weights = _swizzled(blocks, scales, gated=False)
    got = torch.cat([_tile(weights, 0, 0, step, (16, 256)) for step in range(-(-want.shape[1] // 256))], 1)
    assert torch.equal(got[:, : want.shape[1]], want)
    assert torch.equal(torch.signbit(got[:, : 32 * groups]), torch.signbit(want[:, : 32 * groups]))
    assert not got[:, want.shape[1] :].any()  # behind the last column


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("size", [(16, 64), (32, 128), (64, 64)])
@pytest.mark.parametrize(("rows", "columns"), [(50, 160), (64, 128), (2, 32)])
def test_tiles_of_any_size_at_any_place(rows: int, columns: int, size: tuple[int, int], gated: bool) -> None:
    blocks, scales = _packed(2, rows, columns // 32)
    weights = _swizzled(blocks, scales, gated)
    down, high = -(-rows // 16), -(-rows // size[0]) * size[0]
    matrix = torch.zeros(16 * down, -(-columns // size[1]) * size[1], device=DEVICE)
    matrix[:rows, :columns] = unpack(blocks[1], scales[1], torch.float32)
    place = torch.arange(high, device=DEVICE)
    granule, row = (place // 16).clamp(max=down - 1), place % 16  # behind the last granule its rows come again
    want = matrix[16 * granule + (2 * (row % 8) + row // 8 if gated else row)]
    for n in range(high // size[0]):
        for step in range(want.shape[1] // size[1]):
            part = want[n * size[0] :, step * size[1] :][: size[0], : size[1]]
            assert torch.equal(_tile(weights, 1, n, step, size), part)


def _layer(experts: int, hidden: int, width: int) -> tuple[list[torch.Tensor], list[Swizzled | torch.Tensor]]:
    """Arguments of the twin, and ours; outputs near 1."""
    up_blocks, up_scales = _packed(experts, 2 * width, hidden // 32, low=121, high=125)
    down_blocks, down_scales = _packed(experts, hidden, width // 32, low=121, high=125)
    up_bias = torch.randn(experts, 2 * width, device=DEVICE).bfloat16()
    down_bias = torch.randn(experts, hidden, device=DEVICE).bfloat16()
    theirs = [up_blocks, up_scales, up_bias.double(), down_blocks, down_scales, down_bias.double()]
    ours = [_swizzled(up_blocks, up_scales, True), up_bias, _swizzled(down_blocks, down_scales, False), down_bias]
    return theirs, ours


def _keys(tokens: int, k: int, experts: int) -> torch.Tensor:
    """Different experts of a token, some of them not here."""
    return torch.rand(tokens, experts + 1, device=DEVICE).argsort(1)[:, :k]


def _agree(got: torch.Tensor, want: torch.Tensor, here: torch.Tensor) -> None:
    assert got.shape == want.shape
    assert got.dtype == DTYPE
    got, want = got[here].double(), want[here].double()
    assert (got - want).norm() <= CLOSE * want.norm()


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN, or a large number."""
    real = torch.empty

    def empty(*args, **kwargs):  # type: ignore[no-untyped-def]
        made = real(*args, **kwargs)
        return made.fill_(float("nan") if made.is_floating_point() else 77)

    monkeypatch.setattr(torch, "empty", empty)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("tokens", "k", "experts", "hidden", "width", "glu"),
    [(1, 2, 3, 96, 32, GPT_OSS), (3, 2, 3, 160, 64, SILU), (11, 1, 1, 32, 32, GPT_OSS)],
)
def test_against_the_twin(tokens: int, k: int, experts: int, hidden: int, width: int, glu: Glu, plan: str) -> None:
    theirs, ours = _layer(experts, hidden, width)
    x, keys = torch.randn(tokens, hidden, device=DEVICE).to(DTYPE), _keys(tokens, k, experts)
    want = reference.moe_experts_mxfp4(x.double(), keys, *theirs, glu)
    got = moe_experts_mxfp4(x, keys, *ours, glu, plan=PLANS[plan])
    _agree(got, want, keys < experts)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("plan", ["few", "many"])
def test_tokens_may_be_named_and_biases_missing(plan: str) -> None:
    theirs, ours = _layer(2, 64, 32)
    theirs[2] = theirs[5] = ours[1] = ours[3] = None
    x = torch.randn(3, 64, device=DEVICE).to(DTYPE)
    token = torch.tensor([2, 9, 0, 9, 0, 9, 1, 9, 2], device=DEVICE)[::2]
    keys = torch.tensor([1, 1, 2, 0, 1], device=DEVICE)
    want = reference.moe_experts_mxfp4(x.double(), keys, *theirs, SILU, token)
    _agree(moe_experts_mxfp4(x, keys, *ours, SILU, token, plan=PLANS[plan]), want, keys < 2)


@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_the_plan_chosen_by_itself(tokens: int) -> None:
    theirs, ours = _layer(2, 64, 32)
    x, keys = torch.randn(tokens, 64, device=DEVICE).to(DTYPE), _keys(tokens, 2, 2)
    want = reference.moe_experts_mxfp4(x.double(), keys, *theirs, GPT_OSS)
    _agree(moe_experts_mxfp4(x, keys, *ours, GPT_OSS), want, keys < 2)


def test_what_does_not_fit_together_is_refused() -> None:
    _, (gate_up, up_bias, down, down_bias) = _layer(2, 64, 32)
    x, keys = torch.randn(1, 64, device=DEVICE).to(DTYPE), torch.zeros(1, 1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="gated"):
        moe_experts_mxfp4(x, keys, down, up_bias, gate_up, down_bias, SILU)
    plain = Swizzled(gate_up.words, gate_up.scales, 64, 64, gated=False)
    with pytest.raises(ValueError, match="as gated"):
        moe_experts_mxfp4(x, keys, plain, up_bias, down, down_bias, SILU)
    with pytest.raises(ValueError, match="fit together"):
        moe_experts_mxfp4(x[:, :32], keys, gate_up, up_bias, down, down_bias, SILU)
    with pytest.raises(ValueError, match="fit together"):
        moe_experts_mxfp4(x, keys, gate_up, up_bias, Swizzled.empty(2, 64, 64, False, DEVICE), down_bias, SILU)
    with pytest.raises(ValueError, match="biases"):
        moe_experts_mxfp4(x, keys, gate_up, up_bias[:, :-1], down, down_bias, SILU)
    with pytest.raises(ValueError, match="biases"):
        moe_experts_mxfp4(x, keys, gate_up, up_bias, down, down_bias[:1], SILU)
    fewer = Swizzled(down.words[:1], down.scales[:1], 64, 32, gated=False)
    with pytest.raises(ValueError, match="of 2 experts, down of 1"):
        moe_experts_mxfp4(x, keys, gate_up, up_bias, fewer, down_bias, SILU)


needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("experts", [32, 128])
def test_true_shapes(experts: int) -> None:
    theirs, ours = _layer(experts, 2880, 2880)
    theirs = [part.float() if part.is_floating_point() else part for part in theirs]
    for tokens in (1, 2, 3, 8, 32, 100, 128, 512, 1000, 2048, 16384):
        x, keys = torch.randn(tokens, 2880, device=DEVICE).to(DTYPE), _keys(tokens, 4, experts)
        checked = torch.randperm(tokens, device=DEVICE)[:256]  # the twin is slow, and each token is on its own
        want = reference.moe_experts_mxfp4(x[checked].float(), keys[checked], *theirs, GPT_OSS)
        got = moe_experts_mxfp4(x, keys, *ours, GPT_OSS)
        _agree(got[checked], want, keys[checked] < experts)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("warps", [1, 2, 4, 8])
@pytest.mark.parametrize("block_m", [8, 16, 64, 128])
@pytest.mark.parametrize("block_n", [16, 32, 64, 128, 256])
def test_every_tile_that_a_plan_may_name(block_n: int, block_m: int, warps: int) -> None:
    """Each makes the compiler choose layouts anew: mma.sync or wgmma, warps along the rows."""
    if block_n < 16 * warps or block_n * block_m > 4096 * warps:
        pytest.skip("no such tile is planned")
    theirs, ours = _layer(2, 320, 96)
    x, keys = torch.randn(150, 320, device=DEVICE).to(DTYPE), _keys(150, 2, 2)
    want = reference.moe_experts_mxfp4(x.double(), keys, *theirs, GPT_OSS)
    for block_k in (64, 128):
        tile = Tile(block_n, block_m, block_k, warps, stages=3)
        got = moe_experts_mxfp4(x, keys, *ours, GPT_OSS, plan=Plan(False, tile, tile))
        _agree(got, want, keys < 2)
