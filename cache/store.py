"""The device side of the paged cache: one key and one value tensor a layer, all of a group's layers under its pages."""

from __future__ import annotations

import torch

from .spec import CacheSpec


class KVStore:
    """Keys and values of every layer on this rank. `keys[layer]`, `values[layer]`: (pages, page_size, kv_heads, width).

    Memory is not cleared: what a page holds before it is written is undefined, and attention never looks at it.
    """

    def __init__(
        self, spec: CacheSpec, *, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.spec = spec
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        for group in spec.groups:
            shape = (group.num_pages, spec.page_size, kv_heads, width)
            for layer in group.layers:
                self.keys[layer] = torch.empty(shape, dtype=dtype, device=device)
                self.values[layer] = torch.empty(shape, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys.values(), *self.values.values()))


def page_bytes(layers: int, page_size: int, kv_heads: int, width: int, dtype: torch.dtype) -> int:
    """Bytes of one page of a group: `page_size` tokens, keys and values, all its layers."""
    return 2 * layers * page_size * kv_heads * width * dtype.itemsize
