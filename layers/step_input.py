"""One step as a model sees it: tokens, positions and where keys and values lie, all on the device.

Legend: T new tokens of the step, B of them decoding (one a request, first in order), C chunks after them, W tokens
whose keys are kept, P pages a decoding request reads, M keys before a chunk, S rows whose logits are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [low, high) of the step are consecutive tokens of one request."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class GroupInput:
    """What the layers of one cache group need. A layer reads all priors before it writes anything."""

    store_rows_W: torch.Tensor  # rows of this step whose keys and values are kept …
    store_slots_W: torch.Tensor  # … in these flat slots (page * page_size + offset)
    pages_BP: torch.Tensor  # pages that decoding requests read; padding names any page
    first_B: torch.Tensor  # position of column 0's first token
    priors: list[torch.Tensor]  # by chunk: flat slots (M,) of the positions just before it, oldest first


@dataclass(frozen=True, slots=True)
class StepInput:
    token_ids_T: torch.Tensor  # int64
    positions_T: torch.Tensor  # int64
    decodes: int  # B
    chunks: list[Chunk]
    groups: list[GroupInput]  # in the order of the cache spec
    logit_rows_S: torch.Tensor  # rows whose logits are wanted
