"""Random weights that depend on nothing but the seed, the tensor's name and the row.

So a rank that fills three rows gives them what a rank that fills all of them gives, and `--load-format dummy` has the
very weights that `yardmaster init` with the same seed writes. Every row is a window, at a place hashed from its name,
into one table of noise: copying is many times faster than drawing, and tens of gigabytes are wanted.
"""

from __future__ import annotations

import hashlib
import math

import torch

from ..kernels.reference.mxfp4 import BIAS, BLOCK

PERIOD = 1_048_573  # values in the table; a prime, so that no row length falls into step with it
E2M1_RMS = 2.93  # of the sixteen codes, drawn evenly


class Noise:
    """A table of normal and one of uniform noise, drawn from `seed`."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(PERIOD, generator=generator)
        uniform = torch.randint(0, 256, (PERIOD,), dtype=torch.uint8, generator=generator)
        # Twice over, so that a window of up to PERIOD values never wraps.
        self._normal, self._uniform = normal.repeat(2), uniform.repeat(2)
        self._seed = seed

    def rows(self, name: str, shape: tuple[int, ...], rows: range, dtype: torch.dtype) -> torch.Tensor:
        """Rows `rows` of tensor `name` whose whole shape is `shape`: (len(rows), *shape[1:]) of `dtype`.

        uint8 means MXFP4: scale bytes for a name in `_scales`, else blocks. Floats get a spread that suits the name.
        """
        width = math.prod(shape[1:])
        if dtype == torch.uint8:
            out = self._windows(self._uniform, name, rows, width)
            if name.endswith("_scales"):
                # One binade up or down of what makes the unpacked weights keep the scale of their input.
                centre = BIAS - round(math.log2(E2M1_RMS * math.sqrt(BLOCK * shape[-1])))
                out = out.remainder_(3).add_(centre - 1)
        else:
            mean, deviation = spread(name, shape)
            out = self._windows(self._normal, name, rows, width).mul_(deviation).add_(mean).to(dtype)
        return out.view(len(rows), *shape[1:])

    def _windows(self, table: torch.Tensor, name: str, rows: range, width: int) -> torch.Tensor:
        out = torch.empty(len(rows), width, dtype=table.dtype)
        for index, row in enumerate(rows):
            digest = hashlib.blake2b(f"{self._seed}/{name}/{row}".encode(), digest_size=8).digest()
            first = int.from_bytes(digest, "little") % PERIOD
            for start in range(0, width, PERIOD):
                length = min(PERIOD, width - start)
                out[index, start : start + length] = table[first : first + length]
        return out


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation of a tensor's values, chosen so that activations keep their size and logits are lively."""
    if name.endswith("norm.weight"):
        return 1.0, 0.05
    if name.endswith("bias"):
        return 0.0, 0.1
    if len(shape) < 2 or name.endswith("embed_tokens.weight"):
        return 0.0, 1.0
    # Linear weights are (out, in), fused experts (experts, in, out).
    inputs = shape[1] if len(shape) == 3 else shape[-1]
    return 0.0, (3.0 if name.endswith("lm_head.weight") else 1.0) / math.sqrt(max(1, inputs))
