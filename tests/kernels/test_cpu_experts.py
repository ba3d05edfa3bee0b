"""The compiled expert kernels against float64 oracles written out here, on this machine's vectors and narrower ones."""

from __future__ import annotations

import platform

import pytest
import torch

from yardmaster.kernels.cpu import host

if not host.available():
    pytest.skip("the compiled kernels do not run on this machine", allow_module_level=True)

from yardmaster.kernels.cpu import experts as cpu
from yardmaster.kernels.cpu import experts_program

NATIVE = host.host()
AVX2 = host.Host("x86-64-v3", "", lanes=8, tokens=2, lookup=False)
NARROW = host.Host("x86-64-v3", "", lanes=4, tokens=4, lookup=False)
TARGETS = [NATIVE, AVX2, NARROW] if platform.machine() == "x86_64" else [NATIVE]
CODES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
RULE = {"limit": 7.0, "alpha": 1.702}
COUNTS = ([1], [0, 0, 0], [3, 0, 1, 6], [0, 130, 7, 0, 2])


def _pack(experts: int, outs: int, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = torch.randint(0, 256, (experts, outs, inner // 32, 16), dtype=torch.uint8)
    return blocks, torch.randint(117, 126, (experts, outs, inner // 32), dtype=torch.uint8)


def _unpack(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    codes = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
    values = torch.tensor(CODES, dtype=torch.float64)[codes] * torch.exp2(scales.double() - 127)[..., None]
    return values.flatten(-2)


def _oracle(rows, counts, gate_up, gate_up_bias, down, down_bias):  # type: ignore[no-untyped-def]
    out, start = [], 0
    for e, count in enumerate(counts.tolist()):
        both = rows[start : start + count].double() @ gate_up[e].double().T + gate_up_bias[e].double()
        gate, up = both[:, 0::2].clamp(max=7), both[:, 1::2].clamp(-7, 7)
        hidden = (up + 1) * gate / (1 + torch.exp(-1.702 * gate))
        out.append(hidden @ down[e].double().T + (0 if down_bias is None else down_bias[e].double()))
        start += count
    return torch.cat(out)


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


def _packed(experts: int, inner: int, width: int) -> tuple[torch.Tensor, ...]:
    up, up_scales = _pack(experts, 2 * width, inner)
    down, down_scales = _pack(experts, inner, width)
    return up, up_scales, torch.randn(experts, 2 * width), down, down_scales, torch.randn(experts, inner)


def _dense(experts: int, inner: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    up = (3 * torch.randn(experts, 2 * width, inner) / inner**0.5).to(dtype)  # 3: the clamps must bite
    down = torch.randn(experts, inner, width).to(dtype)
    return up, torch.randn(experts, 2 * width), down, torch.randn(experts, inner)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernels leave unwritten is NaN."""
    monkeypatch.setattr(torch, "empty", lambda *size: torch.full(size, float("nan")))
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, float("nan")))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_mxfp4_matches_float64(target: host.Host, counts: list[int]) -> None:
    program = experts_program.program(torch.uint8, target)
    for inner, width in ((32, 32), (96, 64), (160, 96)):
        weights, rows = _packed(len(counts), inner, width), torch.randn(sum(counts), inner)
        got = cpu.run(program, 1 + counts[0] % 2, rows, torch.tensor(counts), weights, (inner, 2 * width), **RULE)
        up, up_scales, up_bias, down, down_scales, down_bias = weights
        dense = _unpack(up, up_scales), up_bias, _unpack(down, down_scales), down_bias
        assert _relative(got, _oracle(rows, torch.tensor(counts), *dense)) < 2e-6


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_dense_matches_float64(target: host.Host, counts: list[int]) -> None:
    program = experts_program.program(torch.bfloat16, target)
    for inner, width in ((1, 1), (7, 5), (33, 17), (160, 97)):
        up, up_bias, down, down_bias = _dense(len(counts), inner, width, torch.bfloat16)
        rows, weights = torch.randn(sum(counts), inner), (up, None, up_bias, down, None, down_bias)
        got = cpu.run(program, 1 + counts[0] % 2, rows, torch.tensor(counts), weights, (inner, 2 * width), **RULE)
        assert _relative(got, _oracle(rows, torch.tensor(counts), up, up_bias, down, down_bias)) < 2e-6


def test_public_calls_agree_and_the_down_bias_may_be_missing() -> None:
    counts = torch.tensor([2, 0, 5])
    rows = torch.randn(7, 64)
    packed = _packed(3, 64, 32)
    up, up_scales, up_bias, down, down_scales, down_bias = packed
    dense = _unpack(up, up_scales).float(), up_bias, _unpack(down, down_scales).float()
    got = cpu.moe_experts_mxfp4(rows, counts, *packed, **RULE)
    want = _oracle(rows, counts, *dense, down_bias)
    assert _relative(got, want) < 2e-6
    assert _relative(cpu.moe_experts(rows, counts, *dense, down_bias, **RULE), want) < 2e-6
    bare = cpu.moe_experts_mxfp4(rows, counts, *packed[:5], None, **RULE)
    assert _relative(bare, _oracle(rows, counts, *dense, None)) < 2e-6


def test_every_code_and_scale_is_exact() -> None:
    """All gates are 0 but one, whose hidden value is 1: so the outputs are one column of the down projection."""
    scales = torch.arange(255).repeat(16, 1).T.reshape(-1)  # 255 means NaN, tested below
    codes = torch.arange(16).repeat(255)
    outs = scales.numel()
    down = torch.zeros(1, outs, 1, 16, dtype=torch.uint8)
    down[0, :, 0, 2] = (codes << 4).to(torch.uint8)  # value 5 of the block
    up = torch.zeros(1, 64, 1 + (outs - 1) // 32, 16, dtype=torch.uint8)
    up_bias = torch.zeros(1, 64)
    up_bias[0, 10] = 1.0  # the gate of hidden value 5
    no_decay = {"limit": 7.0, "alpha": 80.0}  # sigmoid(80) is 1 in float32
    rows, counts = torch.zeros(1, up.shape[2] * 32), torch.tensor([1])
    padded = up.shape[2] * 32
    down = torch.cat((down, torch.zeros(1, padded - outs, 1, 16, dtype=torch.uint8)), 1)
    all_scales = torch.cat((scales, torch.zeros(padded - outs, dtype=torch.long))).to(torch.uint8).view(1, padded, 1)
    up_scales = torch.zeros(1, 64, up.shape[2], dtype=torch.uint8)
    got = cpu.moe_experts_mxfp4(rows, counts, up, up_scales, up_bias, down, all_scales, None, **no_decay)
    want = torch.tensor(CODES, dtype=torch.float64)[codes] * torch.exp2(scales.double() - 127)
    assert torch.equal(got[0, :outs].double(), want.float().double())
    all_scales[0, 0, 0] = 255
    got = cpu.moe_experts_mxfp4(rows, counts, up, up_scales, up_bias, down, all_scales, None, **no_decay)
    assert got[0, 0].isnan()


def test_a_row_is_the_same_alone_and_among_others() -> None:
    packed = _packed(4, 96, 64)
    counts = torch.tensor([11, 0, 1, 7])
    rows = torch.randn(19, 96)
    together = cpu.moe_experts_mxfp4(rows, counts, *packed, **RULE)
    for row in range(19):
        one = torch.tensor([row < 11, False, row == 11, row > 11]).long()
        assert torch.equal(cpu.moe_experts_mxfp4(rows[row : row + 1], one, *packed, **RULE)[0], together[row])


def test_extreme_gates_saturate_and_nan_stays_in_its_row() -> None:
    up, down = torch.eye(2).repeat(1, 1, 1), torch.ones(1, 2, 1)
    rows = torch.tensor([[1e30, 1e30], [-1e30, -1e30], [-100.0, 3.0], [float("nan"), 0.0], [2.0, -1.0]])
    got = cpu.moe_experts(rows, torch.tensor([5]), up, None, down, None, **RULE)[:, 0]
    assert got[0].item() == pytest.approx(56.0, rel=1e-5)
    assert abs(got[1].item()) < 1e-5
    assert abs(got[2].item()) < 1e-30
    assert got[3].isnan()
    assert got[4].item() == 0.0


@pytest.mark.parametrize("counts", [[1, 2], [5, -1], [4, 1], [1 << 62, 1 << 62], [1 << 62] * 4 + [4]])
def test_counts_that_do_not_add_up_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to the 4 rows"):
        cpu.moe_experts_mxfp4(torch.ones(4, 32), torch.tensor(counts), *_packed(len(counts), 32, 32), **RULE)


def test_tensors_that_do_not_fit_are_refused() -> None:
    rows, counts = torch.ones(4, 32), torch.tensor([4, 0])
    good = _packed(2, 32, 32)
    wrong = {
        0: good[0][..., :8],
        1: good[1].int(),
        2: torch.ones(2, 63),
        3: good[3][:1],
        4: good[4].transpose(0, 1),
        5: torch.ones(1, 32),
    }
    for index, tensor in wrong.items():
        with pytest.raises(ValueError, match="experts"):
            cpu.moe_experts_mxfp4(rows, counts, *good[:index], tensor, *good[index + 1 :], **RULE)
    for bad_rows, bad_counts in ((rows.double(), counts), (rows[:, :31], counts), (rows, counts.int())):
        with pytest.raises(ValueError, match="experts"):
            cpu.moe_experts_mxfp4(bad_rows, bad_counts, *good, **RULE)
    with pytest.raises(ValueError, match="multiple of 32"):
        cpu.moe_experts_mxfp4(rows, counts, good[0][:, :62], good[1][:, :62], *good[2:], **RULE)
    with pytest.raises(ValueError, match="even number"):
        cpu.moe_experts(
            torch.ones(1, 4), torch.tensor([1]), torch.ones(1, 3, 4), None, torch.ones(1, 4, 1), None, **RULE
        )
