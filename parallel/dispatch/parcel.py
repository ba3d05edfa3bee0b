"""Tokens with their expert ids and gate weights as one message of bytes, because each message costs a round trip.

T tokens, D model width, K experts a token, B = D * x's bytes + 8 K bytes a token.
"""

from __future__ import annotations

import torch


def pack(x_TD: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
    """x of any dtype, ids int64 below 2^31, weights float32 -> parcel_TB uint8."""
    parts = x_TD.contiguous(), ids_TK.to(torch.int32), weights_TK.contiguous()
    return torch.cat([part.view(torch.uint8) for part in parts], dim=1)


def unpack(parcel_TB: torch.Tensor, dtype: torch.dtype, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_TD of `dtype` (a view of the parcel), ids_TK int64, weights_TK float32, as `pack` was given them."""
    x, ids, weights = parcel_TB.tensor_split((parcel_TB.shape[1] - 8 * k, parcel_TB.shape[1] - 4 * k), dim=1)
    ids, weights = ids.contiguous(), weights.contiguous()  # they may start where no four-byte number can
    return x.view(dtype), ids.view(torch.int32).to(torch.int64), weights.view(torch.float32)
