"""The swizzle: bit for bit undone, and each lane's bytes expanded by hand to what the matrix instruction wants."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yardmaster.kernels.gpu import mxfp4_layout
from yardmaster.kernels.gpu.mxfp4_layout import LARGEST_SCALE, Swizzled, swizzle, swizzled_shapes, unswizzle
from yardmaster.kernels.reference.mxfp4 import pack, unpack


def _packed(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All bytes in the blocks, all scales that may be."""
    blocks = torch.randint(256, (*shape, 16), dtype=torch.uint8)
    return blocks, torch.randint(LARGEST_SCALE + 1, shape, dtype=torch.uint8)


@given(rows=st.integers(0, 70), groups=st.integers(0, 7), gated=st.booleans(), seed=st.integers(0, 1 << 30))
@settings(max_examples=60)
def test_it_can_be_undone(rows: int, groups: int, gated: bool, seed: int) -> None:
    torch.manual_seed(seed)
    rows += gated and rows % 2
    blocks, scales = _packed(rows, groups)
    words, exponents = swizzle(blocks, scales, gated)
    assert ((1, *words.shape), (1, *exponents.shape)) == swizzled_shapes(1, rows, 32 * groups)
    assert words.dtype == exponents.dtype == torch.int32
    back = unswizzle(words, exponents, rows, 32 * groups, gated)
    assert torch.equal(back[0], blocks)
    assert torch.equal(back[1], scales)


@pytest.mark.parametrize("gated", [True, False])
def test_rows_are_rearranged_in_stretches(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, scales = _packed(90, 3)
    whole = swizzle(blocks, scales, gated)
    monkeypatch.setattr(mxfp4_layout, "STRETCH", 32)
    parts = swizzle(blocks, scales, gated)
    assert torch.equal(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1])
    assert torch.equal(unswizzle(*parts, 90, 96, gated)[0], blocks)


def test_views_are_taken_as_they_are() -> None:
    blocks, scales = _packed(3, 32)
    blocks, scales = blocks.transpose(0, 1), scales.t()
    want = swizzle(blocks.contiguous(), scales.contiguous(), False)
    assert all(torch.equal(a, b) for a, b in zip(swizzle(blocks, scales, False), want, strict=True))


def test_the_models_of_2880_pay_no_byte() -> None:
    for rows in (5760, 2880):
        words, scales = swizzled_shapes(32, rows, 2880)
        packed = 32 * rows * 90 * 17
        assert 4 * (torch.Size(words).numel() + torch.Size(scales).numel()) == packed


def test_a_store_of_several_experts() -> None:
    store = Swizzled.empty(3, 34, 96, gated=True, device="cpu")
    experts = [_packed(34, 3) for _ in range(3)]
    for e in (2, 0, 1):
        store.put(e, *experts[e])
    for e, (blocks, scales) in enumerate(experts):
        got = store.take(e)
        assert torch.equal(got[0], blocks)
        assert torch.equal(got[1], scales)
    with pytest.raises(ValueError, match="wanted, got"):
        store.put(0, *_packed(34, 4))
    with pytest.raises(ValueError, match="contiguous int32"):
        Swizzled(store.words, store.scales, 50, 96, gated=True)
    with pytest.raises(ValueError, match="contiguous int32"):
        Swizzled(store.words, store.scales.float(), 34, 96, gated=True)
    with pytest.raises(ValueError, match="contiguous int32"):
        Swizzled(store.words.repeat(1, 1, 1, 2)[..., ::2], store.scales, 34, 96, gated=True)
    with pytest.raises(ValueError, match="pairs"):
        Swizzled.empty(1, 33, 96, gated=True, device="cpu")


def test_what_is_no_mxfp4_is_refused() -> None:
    blocks, scales = _packed(4, 2)
    for bad in ((blocks.int(), scales), (blocks, scales.int()), (blocks[..., :8], scales), (blocks, scales[:2])):
        with pytest.raises(ValueError, match="MXFP4"):
            swizzle(*bad, gated=False)
    with pytest.raises(ValueError, match="pairs"):
        swizzle(*_packed(5, 2), gated=True)
    with pytest.raises(ValueError, match="blocks of 32"):
        swizzled_shapes(1, 16, 48)


@pytest.mark.parametrize("scale", [LARGEST_SCALE + 1, 255])
def test_scales_whose_weights_bfloat16_multiplication_cannot_make_are_refused(scale: int) -> None:
    blocks, scales = _packed(4, 2)
    scales[3, 1] = scale
    with pytest.raises(ValueError, match=f"scale {scale}"):
        swizzle(blocks, scales, gated=False)


def test_every_weight_below_twelve_is_taken() -> None:
    blocks, scales = pack(torch.tensor([[11.9] * 32, [-12.0] + [0.1] * 31]))
    assert int(scales.max()) <= LARGEST_SCALE
    swizzle(blocks, scales, gated=False)


@pytest.mark.parametrize("gated", [True, False])
def test_each_lane_expands_what_the_matrix_instruction_wants_of_it(gated: bool) -> None:
    """The kernel's own PTX, instruction by instruction, on every word of some granules.

    Registers a0 to a3 of the left operand of m16n8k16 and wgmma (PTX manual): lane l has rows l / 4 (+ 8 in a1, a3),
    columns 2 (l % 4) and the next one (+ 8 in a2, a3).
    """
    pytest.importorskip("triton")
    from yardmaster.kernels.gpu import weights_mxfp4

    rows, columns = 32, 160  # the last granule is half full
    blocks, scales = _packed(rows, columns // 32)
    scales[:, ::2] = torch.randint(110, 129, (rows, 3), dtype=torch.uint8)
    want = torch.zeros(rows, 192)
    want[:, :columns] = unpack(blocks, scales, torch.float32)
    words, exponents = swizzle(blocks, scales, gated)
    pairs = (exponents & 0x00FF00FF) << 7, (exponents >> 1) & 0x7F807F80  # as mxfp4_tile takes them apart
    texts = weights_mxfp4._EXPAND_LOW.value, weights_mxfp4._EXPAND_HIGH.value
    down, across, lane = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(32), indexing="ij")
    seen = torch.zeros(rows, 192, dtype=torch.bool)
    for word in range(4):
        right, below = divmod(word, 2)
        mine = words.view(2, 3, 32, 4)[..., word]
        halves = _run(texts[below], mine, pairs[right].repeat_interleave(4, -1))
        row = lane // 4 + 8 * below
        row = 16 * down + (2 * (row % 8) + row // 8 if gated else row)
        for i, half in enumerate(halves):
            step, register = divmod(i // 2, 2)
            column = 64 * across + 32 * right + 16 * step + 8 * register + 2 * (lane % 4) + i % 2
            assert torch.equal(half, want[row, column])
            seen[row, column] = True
    assert seen.all()


_OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "and.b32": lambda a, b: a & b,
    "shl.b32": lambda a, b: a << b,
    "shf.l.wrap.b32": lambda a, b, by: (a << by) | (b >> (32 - by)),
    "mul.lo.u32": lambda a, b: a * b,
    "fma.rn.bf16x2": lambda a, b, c: (
        _multiplied(a & 0xFFFF, b & 0xFFFF, c & 0xFFFF) | _multiplied(a >> 16, b >> 16, c >> 16) << 16
    ),
}


def _run(text: str, word: torch.Tensor, pair: torch.Tensor) -> list[torch.Tensor]:
    """The eight results, in float32, of the inline PTX `text` on int32 tensors."""
    full = 0xFFFFFFFF
    have = {"$8": word.long() & full, "$9": pair.long() & full}

    def value(name: str) -> torch.Tensor | int:
        return int(name, 0) if name[0].isdigit() else have[name]

    for line in re.findall(r"^\s*((?:and|shl|shf|mul|fma|mov)\.[^;]*);", text, re.M):
        name, rest = line.split(maxsplit=1)
        args = [part.strip(" {}") for part in rest.split(",")]
        if name == "mov.b32" and rest.startswith("{"):  # one register to its two halves
            whole = have[args[2]]
            have[args[0]], have[args[1]] = whole & 0xFFFF, whole >> 16
        elif name == "mov.b32" and len(args) == 2:
            have[args[0]] = torch.tensor(value(args[1]))
        elif name == "mov.b32":
            have[args[0]] = have[args[1]] | have[args[2]] << 16
        else:
            have[args[0]] = _OPERATIONS[name](*map(value, args[1:])) & full
    return [_float(have[f"${i}"]) for i in range(8)]


def _float(bits: torch.Tensor) -> torch.Tensor:
    return (bits.int() << 16).view(torch.float32)


def _multiplied(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    result = _float(a) * _float(b) + _float(c)
    assert torch.equal(result.bfloat16().float(), result), "a product was rounded"
    assert torch.equal(result.signbit(), (_float(a) * _float(b)).signbit()), "a zero has changed its sign"
    return result.bfloat16().view(torch.int16).long() & 0xFFFF
