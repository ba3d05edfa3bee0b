"""From a step's plan to the tensors of a step. Each rank keeps the page tables of the requests in its slots.

The rule of the paged cache, which the cache manager counts on (legend in layers/step_input.py): a share of one token
writes its key, then attends over pages; a longer share (a chunk) first gathers the keys before it, attends over those
and its own contiguous ones, and then writes only what later steps can still see. So in a sliding layer pages that a
chunk leaves behind may be given to others in the same step: all reads of priors come before all writes.
"""

from __future__ import annotations

import numpy as np
import torch

from ..cache.spec import CacheSpec, GroupSpec
from ..layers.step_input import Chunk, GroupInput, StepInput
from .plan import Share, StepPlan


class StepBuilder:
    """Page tables by cache group and slot, and the arithmetic that turns them into indices."""

    def __init__(self, spec: CacheSpec, *, max_num_seqs: int, max_model_len: int, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        columns = -(-max_model_len // spec.page_size) + 1
        self._tables = [np.zeros((max_num_seqs, columns), dtype=np.int64) for _ in spec.groups]

    def build(self, plan: StepPlan) -> StepInput:
        """Take the plan's new pages in and lay the step out. Decoding shares come first in the plan."""
        for share in plan.shares:
            for table, grant in zip(self._tables, share.grants, strict=True):
                table[share.slot, grant.first : grant.first + len(grant.pages)] = grant.pages
        decodes = [share for share in plan.shares if share.count == 1]
        chunks = [share for share in plan.shares if share.count > 1]
        if plan.shares != decodes + chunks:
            raise ValueError("a plan's shares of one token must come before its chunks")
        starts = np.cumsum([0, *(share.count for share in plan.shares)])
        positions = [np.arange(share.start, share.start + share.count) for share in plan.shares]
        rows = [starts[i + 1] - 1 for i, share in enumerate(plan.shares) if share.sample]
        return StepInput(
            token_ids_T=self._put([token for share in plan.shares for token in share.token_ids]),
            positions_T=self._put(np.concatenate(positions) if positions else []),
            decodes=len(decodes),
            chunks=[Chunk(int(starts[i]), int(starts[i + 1])) for i in range(len(decodes), len(plan.shares))],
            groups=[
                self._group(group, table, decodes, chunks)
                for group, table in zip(self.spec.groups, self._tables, strict=True)
            ],
            logit_rows_S=self._put(rows),
        )

    def _group(self, group: GroupSpec, table: np.ndarray, decodes: list[Share], chunks: list[Share]) -> GroupInput:
        size, window = self.spec.page_size, group.window
        slots = np.array([share.slot for share in decodes], dtype=np.int64)
        at = np.array([share.start for share in decodes], dtype=np.int64)
        last = at // size
        first = np.zeros_like(at) if window is None else np.maximum(at - (window - 1), 0) // size
        width = int((last - first).max()) + 1 if decodes else 0
        columns = np.minimum(first[:, None] + np.arange(width), last[:, None])
        pages = table[slots[:, None], columns]

        store_rows, store_slots = [np.arange(len(decodes))], [table[slots, last] * size + at % size]
        priors, row = [], len(decodes)
        for share in chunks:
            end = share.start + share.count
            kept = np.arange(share.start if window is None else max(share.start, end - (window - 1)), end)
            seen = np.arange(0 if window is None else max(0, share.start - (window - 1)), share.start)
            store_rows.append(kept - share.start + row)
            store_slots.append(_flat(table[share.slot], kept, size))
            priors.append(self._put(_flat(table[share.slot], seen, size)))
            row += share.count
        return GroupInput(
            store_rows_W=self._put(np.concatenate(store_rows)),
            store_slots_W=self._put(np.concatenate(store_slots)),
            pages_BP=self._put(pages),
            first_B=self._put(first * size),
            priors=priors,
        )

    def _put(self, values: np.ndarray | list[int]) -> torch.Tensor:
        host = torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
        return host if self.device.type == "cpu" else host.pin_memory().to(self.device, non_blocking=True)


def _flat(table: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
    """Flat cache slots of positions of one request."""
    return table[positions // size] * size + positions % size
