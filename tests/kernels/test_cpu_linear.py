"""The compiled linear kernel against float64, on this machine's vectors and on narrower ones."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch

from yardmaster.kernels.cpu import host

if not host.available():
    pytest.skip("the compiled kernels do not run on this machine", allow_module_level=True)

from yardmaster.kernels.cpu import decode_attention, experts_program, norm, routing, store
from yardmaster.kernels.cpu import linear as cpu
from yardmaster.kernels.cpu.warm import warm

NATIVE = host.host()
AVX2 = host.Host("x86-64-v3", "", lanes=8, tokens=2, lookup=True)
NARROW = host.Host("x86-64-v3", "", lanes=4, tokens=4, lookup=False)  # the shape that NEON takes
TARGETS = [NATIVE, AVX2, NARROW] if platform.machine() == "x86_64" else [NATIVE]


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.lanes} lanes")
@pytest.mark.parametrize("dtype", cpu.DTYPES, ids=str)
def test_odd_sizes_match_float64(target: host.Host, dtype: torch.dtype) -> None:
    program = cpu.program(dtype, target)
    for outs, inner in ((1, 1), (3, 5), (4, 16), (17, 31), (64, 32), (130, 97), (67, 320)):
        weight, bias = torch.randn(outs, inner).to(dtype), torch.randn(outs)
        narrow = bias.to(dtype)
        for tokens in (0, 1, 2, 3, 4, 5, 6, 11, 130):
            x = torch.randn(tokens, inner)
            for offsets in (None, bias, narrow):
                y = torch.full((tokens + 1, outs), float("nan"))
                cpu.run(program, 1, x, weight, offsets, y[:tokens])
                want = x.double() @ weight.double().T + (0 if offsets is None else offsets.double())
                size = x.double().abs() @ weight.double().abs().T + (0 if offsets is None else offsets.double().abs())
                assert ((y[:tokens] - want).abs() <= 1e-6 * size).all(), (outs, inner, tokens)
                assert y[tokens].isnan().all(), "wrote behind its output"


def test_public_call_takes_any_leading_shape_and_strided_inputs() -> None:
    weight, bias = torch.randn(24, 40).bfloat16(), torch.randn(24).bfloat16()
    x = torch.randn(40, 3, 5).permute(1, 2, 0)
    got = cpu.linear(x, weight, bias)
    assert got.shape == (3, 5, 24)
    assert got.dtype == torch.float32
    assert _relative(got, x.double() @ weight.double().T + bias.double()) < 1e-6
    assert cpu.linear(x[:0], weight).shape == (0, 5, 24)
    assert cpu.linear(torch.randn(2, 40), weight[:0]).shape == (2, 0)


@pytest.mark.parametrize("dtype", cpu.DTYPES, ids=str)
def test_a_row_is_the_same_alone_in_a_batch_and_on_any_threads(dtype: torch.dtype, threads: Callable) -> None:
    weight, bias, x = torch.randn(203, 333).to(dtype), torch.randn(203), torch.randn(23, 333)
    threads(1)
    alone = torch.cat([cpu.linear(row[None], weight, bias) for row in x])
    for count in (1, 2, 3):
        threads(count)
        for tokens in (1, 2, 4, 5, 6, 13, 23):
            assert torch.equal(cpu.linear(x[:tokens], weight, bias), alone[:tokens]), (count, tokens)


def test_weights_beyond_the_normal_range_and_not_a_number() -> None:
    weight = torch.tensor([[1e-40, 2.0], [float("inf"), 1.0], [float("nan"), 1.0], [-0.0, 3e38]]).bfloat16()
    got = cpu.linear(torch.tensor([[1.0, 0.0]]), weight)
    want = torch.tensor([[weight[0, 0].item(), float("inf"), float("nan"), 0.0]])
    assert torch.equal(got.nan_to_num(nan=7.0), want.nan_to_num(nan=7.0))


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.ones(2, 8), torch.ones(4, 9), None),
        (torch.ones(2, 8), torch.ones(4, 8), torch.ones(5)),
        (torch.ones(2, 8, dtype=torch.bfloat16), torch.ones(4, 8), None),
        (torch.ones(2, 8), torch.ones(4, 8, dtype=torch.float64), None),
        (torch.ones(2, 8), torch.ones(8, 4).T, None),
        (torch.ones(2, 8), torch.ones(4, 8, device="meta"), None),
    ],
)
def test_refuses_what_does_not_fit(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="linear"):
        cpu.linear(x, weight, bias)


def test_warm_compiles_once() -> None:
    programs = [module.program for module in (norm, routing, cpu, experts_program, store, decode_attention)]
    warm()
    before = [program.cache_info().misses for program in programs]
    warm()
    assert [program.cache_info().misses for program in programs] == before
