"""The swizzle against a loop over every weight, and against its inverse."""

from __future__ import annotations

import pytest
import torch

from yardmaster.kernels.gpu.mxfp4_layout import swizzle, swizzled_shape, unswizzle
from yardmaster.kernels.reference.mxfp4 import E2M1, unpack

BITS = [(15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 13, 11, 10)]  # sign, exponent, mantissa


def _packed(rows: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = torch.randint(256, (rows, groups, 16), dtype=torch.uint8)
    return blocks, torch.randint(0, 129, (rows, groups), dtype=torch.uint8)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("rows", "groups"), [(16, 2), (32, 5), (50, 1), (2, 3), (64, 4)])
def test_it_can_be_undone(rows: int, groups: int, gated: bool) -> None:
    blocks, scales = _packed(rows, groups)
    words, exponents = swizzle(blocks, scales, gated)
    assert (words.shape, exponents.shape) == swizzled_shape(rows, 32 * groups)
    assert (words.dtype, exponents.dtype) == (torch.int32, torch.uint8)
    back = unswizzle(words, exponents, rows, 32 * groups, gated)
    assert torch.equal(back[0], blocks)
    assert torch.equal(back[1], scales)


@pytest.mark.parametrize("gated", [True, False])
def test_each_lane_holds_what_the_matrix_instruction_wants_of_it(gated: bool) -> None:
    rows, groups = 32, 3
    blocks, scales = _packed(rows, groups)
    want = unpack(blocks, scales, torch.float64)
    words, exponents = swizzle(blocks, scales, gated)
    seen = torch.zeros(rows, 32 * groups, dtype=torch.bool)
    for r in range(2):
        for c in range(2):
            for lane in range(32):
                for word in range(4):
                    bits = int(words[r, c, lane, word]) & 0xFFFFFFFF
                    exponent = int(exponents[r, c, lane // 4 * 4 + word])
                    for register, places in enumerate(BITS):
                        for half in (0, 1):
                            sign, high, low, mantissa = ((bits >> (place + 16 * half)) & 1 for place in places)
                            value = (-1) ** sign * E2M1[4 * high + 2 * low + mantissa]
                            row = 16 * r + 8 * (word // 2) + lane // 4
                            if gated:
                                row = 16 * r + 2 * (lane // 4) + word // 2
                            column = 64 * c + 32 * (word % 2) + 8 * register + 2 * (lane % 4) + half
                            if column >= 32 * groups:
                                assert (exponent, value) == (0, 0.0)
                                continue
                            assert value * 2.0 ** (exponent - 253) == want[row, column]
                            seen[row, column] = True
    assert seen.all()


def test_true_shapes_need_no_filling() -> None:
    words, exponents = swizzled_shape(5760, 2880)
    assert torch.Size(words).numel() * 4 == 5760 * 2880 // 2
    assert torch.Size(exponents).numel() == 5760 * 2880 // 32


def test_scales_that_bfloat16_cannot_hold_are_refused() -> None:
    blocks, scales = _packed(16, 2)
    scales[3, 1] = 129
    with pytest.raises(ValueError, match="above 128"):
        swizzle(blocks, scales, False)
