"""Mixture-of-experts layers in the true shapes of the models we serve: their floors, and what we ask of ourselves.

The floor of a layer is the larger of two times: the bytes of the experts that the tokens really hit, of the tokens in
and out and of the hidden rows written and read, at the copy rate; and the products' operations at the matmul rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from yardmaster.kernels.glu import Glu

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
GPT_OSS = Glu(7.0, 1.702, 1.0)

# What the layer must reach of its floor, and would like to, by the largest number of tokens it holds for.
MXFP4_GOALS = ((1, 0.50, 0.65), (8, 0.70, 0.82), (512, 0.75, 0.88), (2048, None, None), (1 << 30, 0.45, 0.60))
BFLOAT16_GOALS = ((512, 0.80, 0.90), (4096, None, None), (1 << 30, 0.55, 0.70))


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer. `packed`: MXFP4 experts; else bfloat16."""

    name: str
    hidden: int
    width: int
    experts: int
    k: int
    packed: bool
    glu: Glu

    @property
    def expert_bytes(self) -> float:
        """Weights of one expert as stored, biases not counted."""
        return 3 * self.hidden * self.width * (17 / 32 if self.packed else 2)

    def floor_seconds(self, tokens: int, hit: float, copy_rate: float, matmul_rate: float) -> float:
        activations = 2 * 2 * tokens * self.hidden + 2 * 2 * tokens * self.k * self.width
        operations = 2 * tokens * self.k * 3 * self.hidden * self.width
        return max((hit * self.expert_bytes + activations) / copy_rate, operations / matmul_rate)

    def goal(self, tokens: int) -> tuple[float | None, float | None]:
        goals = MXFP4_GOALS if self.packed else BFLOAT16_GOALS
        return next((must, stretch) for limit, must, stretch in goals if tokens <= limit)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("gpt-oss-20b", 2880, 2880, 32, 4, True, GPT_OSS),
        Shape("gpt-oss-120b", 2880, 2880, 128, 4, True, GPT_OSS),
        Shape("gpt-oss-20b bfloat16", 2880, 2880, 32, 4, False, GPT_OSS),
        Shape("qwen3-30b", 2048, 768, 128, 8, False, Glu()),
        Shape("mixtral-8x7b", 4096, 14336, 8, 2, False, Glu()),
    )
}
