"""MXFP4 in plain torch: blocks of 32 four-bit floats under one shared power of two (OCP Microscaling Formats 1.0).

Legend: G blocks of 32 along the inner dimension; each block is 16 bytes, low nibble first, and one scale byte s that
means 2^(s - 127).
"""

from __future__ import annotations

import torch

BLOCK = 32
BIAS = 127
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # codes 0 to 7; codes 8 to 15 are the same, negated
STRETCH = 1 << 16  # blocks unpacked at a time: the indices, four times the packed bytes, stay in the processor's cache


def unpack(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Values of packed weights: `blocks` (..., G, 16) uint8, `scales` (..., G) uint8 -> (..., G * 32) of `dtype`.

    Exact in float32 and bfloat16 wherever the value is finite there; float16 is rounded once. Raises ValueError when
    the shapes or dtypes do not fit together.
    """
    if blocks.dtype != torch.uint8 or scales.dtype != torch.uint8:
        raise ValueError(f"MXFP4 blocks and scales are uint8, got {blocks.dtype} and {scales.dtype}")
    if blocks.shape[-1:] != (BLOCK // 2,) or blocks.shape[:-1] != scales.shape:
        raise ValueError(f"MXFP4 wants blocks (..., G, 16) and scales (..., G), got {blocks.shape} and {scales.shape}")
    # float16 has too few exponents to hold the scale itself, though it may hold the product.
    work = dtype if dtype == torch.bfloat16 else torch.float32
    values = torch.tensor(E2M1 + tuple(-v for v in E2M1), dtype=work, device=blocks.device)
    byte = torch.arange(256, device=blocks.device)
    # One look-up a byte, not two: each pair of values is one wide integer.
    pairs = torch.stack((values[byte & 15], values[byte >> 4]), dim=-1)
    pairs = pairs.view({4: torch.int32, 8: torch.int64}[2 * work.itemsize]).flatten()
    powers = torch.tensor([2.0 ** (s - BIAS) for s in range(256)], dtype=torch.float64).to(blocks.device, work)
    out = torch.empty(*scales.shape, BLOCK, dtype=dtype, device=blocks.device)
    flat = blocks.reshape(-1, BLOCK // 2), scales.reshape(-1), out.view(-1, BLOCK)
    for block, scale, target in zip(*(part.split(STRETCH) for part in flat), strict=True):
        value = pairs.index_select(0, block.reshape(-1).int()).view(work).view(-1, BLOCK)
        target.copy_(value.mul_(powers.index_select(0, scale.int()).unsqueeze(-1)))
    return out.flatten(-2)


def pack(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Packs (..., G * 32) floats into blocks (..., G, 16) and scales (..., G), both uint8.

    The scale is the largest power of two that keeps the block's largest value at 4 or more (section 6.3 of the
    standard); values round to the nearest code, ties to the even one, and saturate at 6. What `unpack` gave, `pack`
    gives back with the same values. Raises ValueError for a length that is no multiple of 32, and for NaN or infinity.
    """
    if x.dim() == 0 or x.shape[-1] % BLOCK:
        raise ValueError(f"MXFP4 packs multiples of {BLOCK} values, got shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("MXFP4 cannot hold NaN or infinity")
    x = x.float().unflatten(-1, (x.shape[-1] // BLOCK, BLOCK))
    largest = x.abs().amax(dim=-1) if x.numel() else x.new_zeros(x.shape[:-1])
    exponent = torch.frexp(largest).exponent.int() - 3  # frexp: largest in [0.5, 1) * 2^e; 4 is 0.5 * 2^3
    exponent = torch.where(largest == 0, 0, exponent).clamp(-BIAS, BIAS)
    # In two halves, because 2^127 and 2^-127 have no normal inverse in float32.
    half = exponent // 2
    x = torch.ldexp(torch.ldexp(x, -half.unsqueeze(-1)), (half - exponent).unsqueeze(-1))
    m = x.abs()
    # The codes step by 1/2 below 2, by 1 below 4, then by 2; round() takes ties to the even code.
    code = torch.where(m < 2, torch.round(2 * m), torch.where(m < 4, torch.round(m) + 2, torch.round(m / 2) + 4))
    code = code.clamp_(max=7).to(torch.uint8)
    code |= torch.signbit(x).to(torch.uint8) << 3
    return code[..., 0::2] | (code[..., 1::2] << 4), (exponent + BIAS).to(torch.uint8)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """What `pack` leaves of float32 values, `unpack(*pack(x), torch.float32)`, without packing: in 0.4 of the time.

    For blocks whose largest value is 0 or a normal number from 2^-120 to 2^120, as weights are. Unlike `pack` it does
    not look for NaN and infinity. Raises ValueError for a length that is no multiple of 32.
    """
    if x.dim() == 0 or x.shape[-1] % BLOCK or x.dtype != torch.float32:
        raise ValueError(f"wants float32 in multiples of {BLOCK}, got {tuple(x.shape)} {x.dtype}")
    x = x.unflatten(-1, (x.shape[-1] // BLOCK, BLOCK))
    largest = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True)
    scale = _power(largest).mul_(0.25)
    scale.masked_fill_(scale == 0, 1.0)
    m = x / scale
    # Half the power of two at or below each value is the step between codes there, but never less than 1/2.
    step = _power(m).mul_(0.5).clamp_(min=0.5)
    return m.div_(step).round_().mul_(step).clamp_(-E2M1[-1], E2M1[-1]).mul_(scale).flatten(-2)


def _power(x: torch.Tensor) -> torch.Tensor:
    """The power of two at or below |x|, which float32 keeps in its exponent; 0 for 0."""
    return (x.view(torch.int32) & 0x7F800000).view(torch.float32)
