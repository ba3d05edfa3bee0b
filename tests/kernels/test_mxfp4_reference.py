"""MXFP4 against transformers' own routine, bit for bit, and against a rounding written out by hand."""

from __future__ import annotations

import pytest
import torch

from yardmaster.kernels.reference.mxfp4 import E2M1, STRETCH, pack, rounded, unpack

mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_scale_but_nan_as_transformers_unpacks_it(dtype: torch.dtype) -> None:
    scales = torch.arange(255, dtype=torch.uint8).view(1, 255, 1).repeat(2, 1, 3)
    blocks = torch.randint(0, 256, (2, 255, 3, 16), dtype=torch.uint8)
    want = mxfp4._convert_moe_packed_tensors(blocks, scales, dtype=dtype).transpose(1, 2)
    got = unpack(blocks, scales, dtype)
    assert got.shape == (2, 255, 96)
    assert got.dtype == dtype
    assert torch.equal(got, want)
    assert torch.equal(torch.signbit(got), torch.signbit(want))


def test_float16_rounds_once() -> None:
    scales = torch.randint(100, 140, (5, 7), dtype=torch.uint8)
    blocks = torch.randint(0, 256, (5, 7, 16), dtype=torch.uint8)
    assert torch.equal(unpack(blocks, scales, torch.float16), unpack(blocks, scales, torch.float32).half())


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 0), (2, 5, 1), (STRETCH + 1, 1), (1,)])
def test_shapes(shape: tuple[int, ...]) -> None:
    blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
    scales = torch.randint(110, 130, shape, dtype=torch.uint8)
    got = unpack(blocks, scales, torch.float64)
    assert got.shape == (*shape[:-1], shape[-1] * 32)
    values = torch.tensor(E2M1 + tuple(-x for x in E2M1), dtype=torch.float64)
    codes = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
    assert torch.equal(got, (values[codes] * 2.0 ** (scales.double() - 127).unsqueeze(-1)).flatten(-2))


def test_not_contiguous() -> None:
    blocks = torch.randint(0, 256, (6, 5, 16), dtype=torch.uint8).transpose(0, 1)
    scales = torch.randint(110, 130, (6, 5), dtype=torch.uint8).t()
    assert torch.equal(unpack(blocks, scales), unpack(blocks.contiguous(), scales.contiguous()))


def test_pack_gives_back_what_unpack_gave() -> None:
    scales = torch.randint(0, 252, (4, 9, 3), dtype=torch.uint8)
    blocks = torch.randint(0, 256, (4, 9, 3, 16), dtype=torch.uint8)
    blocks[0, 0] = 0
    blocks[0, 1] = 0x88  # minus zero
    x = unpack(blocks, scales, torch.float32)
    again = unpack(*pack(x), torch.float32)
    assert torch.equal(again, x)
    assert torch.equal(torch.signbit(again), torch.signbit(x))


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 3e4, 1e30])
def test_pack_rounds_to_the_nearest(size: float) -> None:
    x = torch.randn(64, 96) * size
    blocks, scales = pack(x)
    assert blocks.shape == (64, 3, 16)
    assert scales.shape == (64, 3)
    grid = torch.tensor(sorted({s * v for v in E2M1 for s in (1, -1)}), dtype=torch.float64)
    power = 2.0 ** (scales.double() - 127)
    for_each = x.double().view(64, 3, 32) / power.unsqueeze(-1)
    largest = for_each.abs().amax(-1)
    assert torch.all((largest >= 4) & (largest < 8))
    got = unpack(blocks, scales, torch.float64).view(64, 3, 32) / power.unsqueeze(-1)
    assert torch.equal((got - for_each).abs(), (for_each.unsqueeze(-1) - grid).abs().amin(-1))


def test_ties_go_to_the_even_code() -> None:
    x = torch.zeros(32)
    x[:9] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0, -0.75])
    assert unpack(*pack(x), torch.float32)[:9].tolist() == [0, 1, 1, 2, 2, 4, 4, 6, -1]


@pytest.mark.parametrize("size", [1e-30, 1e-4, 1.0, 1e4, 1e30])
def test_rounded_is_what_pack_leaves(size: float) -> None:
    x = torch.randn(33, 12, 192) * size
    x[0, 0] = 0  # blocks of nothing, and single zeros
    x[1, :, :32] = 0
    x[2, :, ::3] = 0
    x[3] = torch.randint(-14, 15, (12, 192)) * 0.25 * size  # ties
    x[4] = torch.randint(-6, 3, (12, 192)).float().exp2() * size
    got = rounded(x)
    assert got.shape == x.shape
    assert torch.equal(got, unpack(*pack(x), torch.float32))
    assert torch.equal(rounded(got), got)
    assert torch.equal(torch.signbit(got), torch.signbit(x))


@pytest.mark.parametrize("x", [torch.zeros(4, 33), torch.zeros(32).bfloat16(), torch.tensor(1.0)])
def test_rounded_wants_float32_in_blocks(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="wants float32 in multiples of 32"):
        rounded(x)


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        pack(torch.zeros(4, 33))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinity"):
            pack(torch.full((32,), value))
    with pytest.raises(ValueError, match="uint8"):
        unpack(torch.zeros(1, 16), torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="wants blocks"):
        unpack(torch.zeros(1, 15, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="wants blocks"):
        unpack(torch.zeros(2, 16, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8))
