"""What the ranks tell one another between steps, on the CPU: the leaders' agreement and a leader's plan for its group.

Enters: a few integers, or bytes. Leaves: the same on every rank concerned. It runs over the mesh's gloo groups whatever
the model runs on, so waiting for work keeps no GPU busy, and with the mesh's deadline: who waits must be spoken to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from .collectives import RankLost
from .mesh import Mesh

# How the backends' errors look where they reach us as a bare RuntimeError.
_SIGNS = ("gloo/", "Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


class Control:
    """One rank's control channel. In a world of one rank everything passes straight through.

    `rounds` counts the messages shared so far: as long as it grows, this rank and its leader are not stuck.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._leaders = mesh.leaders
        self._group = mesh.control
        self.rounds = 0

    def agree(self, values: Sequence[int]) -> list[list[int]]:
        """Leaders only: each one's `values` (64-bit, as many on each), in the order of the groups. Raises RankLost."""
        return self._leaders.all_gather_counts(*values)

    def share_bytes(self, data: bytes | None) -> bytes:
        """The leader's `data`, on every rank of its tensor-parallel group; followers pass None. Raises RankLost."""
        shared = self._group.broadcast_bytes(data or b"")
        self.rounds += 1
        return shared


def lost_peers(error: BaseException) -> bool:
    """Whether an exception only says that another rank has gone: its cause is then to be looked for there."""
    if isinstance(error, RankLost | dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
