"""Figures of a device, seen from a thread that must not wait for what the device has yet to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class HostCopy:
    """Copies of some tensors of one shape, stacked, on the host. For one thread; others may write them meanwhile.

    On a GPU they are those of an earlier call: each `latest` asks for a new copy, beside the steps on a stream of its
    own, unless the one before is still under way. On a CPU they are those of now.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = list(tensors)
        self._seen = torch.stack(self._tensors).cpu()
        self._stream: torch.cuda.Stream | None = None
        if self._tensors[0].is_cuda:
            self._stream = torch.cuda.Stream(self._tensors[0].device)
            self._stacked = torch.stack(self._tensors)
            self._pinned = self._seen.pin_memory()
            self._copied: torch.cuda.Event | None = None

    def latest(self) -> torch.Tensor:
        """Of the tensors' dtype and shape, behind a dimension of their number. The caller's own."""
        if self._stream is None:
            return torch.stack(self._tensors)
        if self._copied is None or self._copied.query():
            self._seen = self._pinned.clone()
            with torch.cuda.stream(self._stream):
                torch.stack(self._tensors, out=self._stacked)
                self._pinned.copy_(self._stacked, non_blocking=True)
                self._copied = self._stream.record_event()
        return self._seen
