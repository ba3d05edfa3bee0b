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
from yardmaster.kernels.glu import Glu

NATIVE = host.host()
AVX2 = host.Host("x86-64-v3", "", lanes=8, tokens=2, lookup=True)
NARROW = host.Host("x86-64-v3", "", lanes=4, tokens=4, lookup=False)
TARGETS = [NATIVE, AVX2, NARROW] if platform.machine() == "x86_64" else [NATIVE]
CODES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
GLU = Glu(7.0, 1.702, 1.0)
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


def _grouped(run, rows, counts, *weights, glu=GLU):  # type: ignore[no-untyped-def]
    """A public function on rows that stand grouped by expert."""
    return run(rows, torch.arange(len(counts)).repeat_interleave(counts)[:, None], *weights, glu)[:, 0]


def _shuffled(program, rows, counts, weights, sizes):  # type: ignore[no-untyped-def]
    """A given program on those rows in any order, with tokens that go nowhere among them; the results grouped again."""
    keys = torch.cat(
        (torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)), torch.tensor([len(counts)] * 3))
    )
    order = torch.randperm(len(keys))
    x = torch.cat((rows, torch.full((3, rows.shape[1]), float("nan"))))[order]
    got = cpu.run(program, 1 + counts[0] % 2, x, keys[order, None], None, weights, sizes, GLU)
    return torch.full_like(got[:, 0], float("nan")).index_copy_(0, order, got[:, 0])[: len(rows)]


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
        got = _shuffled(program, rows, counts, weights, (len(counts), inner, 2 * width))
        up, up_scales, up_bias, down, down_scales, down_bias = weights
        dense = _unpack(up, up_scales), up_bias, _unpack(down, down_scales), down_bias
        assert _relative(got, _oracle(rows, torch.tensor(counts), *dense)) < 2e-6


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_dense_matches_float64(target: host.Host, counts: list[int]) -> None:
    program = experts_program.program(torch.bfloat16, target)
    for inner, width in ((1, 1), (7, 5), (33, 17), (160, 97)):
        got, want = [], []
        for _ in range(1 + 64 // (inner * sum(counts) or 64)):  # the norm of a few numbers may be next to nothing
            up, up_bias, down, down_bias = _dense(len(counts), inner, width, torch.bfloat16)
            rows, weights = torch.randn(sum(counts), inner), (up, None, up_bias, down, None, down_bias)
            got.append(_shuffled(program, rows, counts, weights, (len(counts), inner, 2 * width)))
            want.append(_oracle(rows, torch.tensor(counts), up, up_bias, down, down_bias))
        assert _relative(torch.cat(got), torch.cat(want)) < 2e-6


def test_public_calls_agree_and_the_down_bias_may_be_missing() -> None:
    counts = torch.tensor([2, 0, 5])
    rows = torch.randn(7, 64)
    packed = _packed(3, 64, 32)
    up, up_scales, up_bias, down, down_scales, down_bias = packed
    dense = _unpack(up, up_scales).float(), up_bias, _unpack(down, down_scales).float()
    got = _grouped(cpu.moe_experts_mxfp4, rows, counts, *packed)
    want = _oracle(rows, counts, *dense, down_bias)
    assert _relative(got, want) < 2e-6
    assert _relative(_grouped(cpu.moe_experts, rows, counts, *dense, down_bias), want) < 2e-6
    bare = _grouped(cpu.moe_experts_mxfp4, rows, counts, *packed[:5], None)
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
    no_decay = Glu(7.0, 80.0, 1.0)  # sigmoid(80) is 1 in float32
    rows, counts = torch.zeros(1, up.shape[2] * 32), torch.tensor([1])
    padded = up.shape[2] * 32
    down = torch.cat((down, torch.zeros(1, padded - outs, 1, 16, dtype=torch.uint8)), 1)
    all_scales = torch.cat((scales, torch.zeros(padded - outs, dtype=torch.long))).to(torch.uint8).view(1, padded, 1)
    up_scales = torch.zeros(1, 64, up.shape[2], dtype=torch.uint8)
    got = _grouped(cpu.moe_experts_mxfp4, rows, counts, up, up_scales, up_bias, down, all_scales, None, glu=no_decay)
    want = torch.tensor(CODES, dtype=torch.float64)[codes] * torch.exp2(scales.double() - 127)
    assert torch.equal(got[0, :outs].double(), want.float().double())
    all_scales[0, 0, 0] = 255
    got = _grouped(cpu.moe_experts_mxfp4, rows, counts, up, up_scales, up_bias, down, all_scales, None, glu=no_decay)
    assert got[0, 0].isnan()


def test_a_row_is_the_same_alone_and_among_others() -> None:
    packed = _packed(4, 96, 64)
    counts = torch.tensor([11, 0, 1, 7])
    rows = torch.randn(19, 96)
    together = _grouped(cpu.moe_experts_mxfp4, rows, counts, *packed)
    for row in range(19):
        one = torch.tensor([row < 11, False, row == 11, row > 11]).long()
        assert torch.equal(_grouped(cpu.moe_experts_mxfp4, rows[row : row + 1], one, *packed)[0], together[row])


def test_extreme_gates_saturate_and_nan_stays_in_its_row() -> None:
    up, down = torch.eye(2).repeat(1, 1, 1), torch.ones(1, 2, 1)
    rows = torch.tensor([[1e30, 1e30], [-1e30, -1e30], [-100.0, 3.0], [float("nan"), 0.0], [2.0, -1.0]])
    got = _grouped(cpu.moe_experts, rows, torch.tensor([5]), up, None, down, None)[:, 0]
    assert got[0].item() == pytest.approx(56.0, rel=1e-5)
    assert abs(got[1].item()) < 1e-5
    assert abs(got[2].item()) < 1e-30
    assert got[3].isnan()
    assert got[4].item() == 0.0


@pytest.mark.parametrize("key", [-1, 3, 1 << 62, -(1 << 63)])
def test_experts_and_tokens_that_do_not_exist_are_refused(key: int) -> None:
    x, weights = torch.ones(4, 32), _packed(2, 32, 32)
    keys = torch.tensor([[0], [1], [key], [2]])
    with pytest.raises(ValueError, match="a key is not one of"):
        cpu.moe_experts_mxfp4(x, keys, *weights, GLU)
    tokens = torch.tensor([0, 3, 4 if key == 3 else key])
    with pytest.raises(ValueError, match="token not one of 4"):
        cpu.moe_experts_mxfp4(x, torch.tensor([0, 1, 1]), *weights, GLU, tokens)


def test_many_pairs_of_few_tokens_in_any_order() -> None:
    """Each token's experts several at a time, a token more than once, rows that are not here."""
    x, weights = torch.randn(13, 64), _packed(5, 64, 96)
    up, up_scales, up_bias, down, down_scales, down_bias = weights
    dense = _unpack(up, up_scales), up_bias, _unpack(down, down_scales), down_bias
    keys, tokens = torch.randint(0, 6, (13, 7)), torch.randint(0, 13, (40,))
    got = cpu.moe_experts_mxfp4(x, keys, *weights, GLU)
    named = cpu.moe_experts_mxfp4(x, keys.flatten()[:40], *weights, GLU, tokens)
    for rows, chosen, results in (
        (x.repeat_interleave(7, 0), keys.flatten(), got.flatten(0, 1)),
        (x[tokens], keys.flatten()[:40], named),
    ):
        for expert in range(5):
            mine = chosen == expert
            one = torch.tensor([0] * expert + [int(mine.sum())])
            want = _oracle(rows[mine], one, *(part[: expert + 1] for part in dense))
            assert _relative(results[mine], want) < 2e-6


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
            _grouped(cpu.moe_experts_mxfp4, rows, counts, *good[:index], tensor, *good[index + 1 :])
    for bad_rows in (rows.double(), rows[:, :31]):
        with pytest.raises(ValueError, match="experts"):
            _grouped(cpu.moe_experts_mxfp4, bad_rows, counts, *good)
    with pytest.raises(ValueError, match="multiple of 32"):
        _grouped(cpu.moe_experts_mxfp4, rows, counts, good[0][:, :62], good[1][:, :62], *good[2:])
    odd = torch.ones(1, 3, 4), None, torch.ones(1, 4, 1), None
    with pytest.raises(ValueError, match="even number"):
        _grouped(cpu.moe_experts, torch.ones(1, 4), torch.tensor([1]), *odd)


def test_pairs_that_are_not_here_are_left_alone_and_tokens_may_be_named() -> None:
    x, packed = torch.randn(5, 64), _packed(3, 64, 32)
    keys = torch.tensor([[2, 0], [3, 1], [3, 3], [1, 2], [0, 3]])  # 3: not here
    got = cpu.moe_experts_mxfp4(x, keys, *packed, GLU)
    assert got.shape == (5, 2, 64)
    here = keys < 3
    token_R = torch.arange(5).repeat_interleave(2)[here.flatten()]
    named = cpu.moe_experts_mxfp4(x, keys[here], *packed, GLU, token_R)
    assert torch.equal(got[here], named)
    for row, key, token in zip(named, keys[here], token_R, strict=True):
        alone = cpu.moe_experts_mxfp4(x[token : token + 1], key.view(1, 1), *packed, GLU)
        assert torch.equal(alone[0, 0], row)
    assert cpu.moe_experts_mxfp4(x[:0], keys[:0], *packed, GLU).shape == (0, 2, 64)


def test_the_plain_silu_gate() -> None:
    rows, counts = torch.randn(4, 33), torch.tensor([4])
    up, up_bias, down, _ = _dense(1, 33, 17, torch.float32)
    both = rows.double() @ up[0].double().T + up_bias[0].double()
    want = (torch.nn.functional.silu(both[:, ::2]) * both[:, 1::2]) @ down[0].double().T
    assert _relative(_grouped(cpu.moe_experts, rows, counts, up, up_bias, down, None, glu=Glu()), want) < 2e-6
