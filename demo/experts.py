"""Expert weights while they are trained: dense, and from some step on seen through MXFP4, as they will be stored.

e experts, g = 2f gate and up rows, D model width, f expert width.
"""

from __future__ import annotations

import torch

from ..experts.base import ExpertShard
from ..experts.resident import ResidentExperts
from ..kernels.reference.mxfp4 import rounded
from ..kernels.training.experts import moe_experts


class TrainedExperts(ResidentExperts):
    """An `ExpertStore`. With `packed` the products take what MXFP4 leaves of each weight, and the gradient goes to the

    weight itself ("straight-through"), so that training finds weights that survive the packing.
    """

    def __init__(self, shard: ExpertShard, device: torch.device) -> None:
        super().__init__(shard, dtype=torch.float32, device=device, packed_source=False)
        self.packed = False

    def run(self, x_MD: torch.Tensor, keys: torch.Tensor, token_R: torch.Tensor | None = None) -> torch.Tensor:
        """See `ExpertStore.run`."""
        gate_up, down = (through_mxfp4(w) if self.packed else w for w in (self.gate_up, self.down))
        return moe_experts(x_MD, keys, gate_up, self.gate_up_bias, down, self.down_bias, self.shard.glu)


def through_mxfp4(weight: torch.Tensor) -> torch.Tensor:
    """The packed weight's values, with the gradient of the weight."""
    with torch.no_grad():
        left = rounded(weight) - weight
    return weight + left
