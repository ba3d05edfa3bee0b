"""All groups that a rank belongs to, made once at start-up. Below it nobody asks who else is there.

Data travels over NCCL between GPUs and over gloo between CPUs; step plans and counts of the host over gloo always.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .collectives import Group, RankLost, gist
from .layout import ParallelConfig, split

MXFP4_BLOCK = 32  # an expert's width is cut between these, so that packed weights can be


@dataclass(frozen=True, slots=True)
class Mesh:
    """One rank's view of the ranks. `tp` shares attention, `ep` shares experts out, `etp` shares one expert's width.

    `control` (the ranks of `tp`) and `leaders` (the first ranks of all data-parallel groups; on a follower: itself
    alone) speak gloo and take CPU tensors.
    """

    layout: ParallelConfig
    rank: int
    device: torch.device
    world: Group
    tp: Group
    ep: Group
    etp: Group
    control: Group
    leaders: Group

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> Mesh:
        """A world of one rank; torch.distributed is not touched."""
        alone = Group([0])
        return cls(ParallelConfig(), 0, torch.device(device), alone, alone, alone, alone, alone, alone)

    @classmethod
    def join(cls, layout: ParallelConfig, device: torch.device | str, timeout: float = 30.0) -> Mesh:
        """Meet the other ranks as torchrun's environment says (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).

        `timeout` is the deadline in seconds of this meeting and of every collective after it. Raises ValueError when
        the environment's world is not the layout's, RankLost when the others do not come.
        """
        device = torch.device(device)
        rank, world = _environment("RANK"), _environment("WORLD_SIZE")
        if world != layout.world_size:
            raise ValueError(
                f"{world} ranks were started, but --tensor-parallel-size {layout.tp} x "
                f"--data-parallel-size {layout.dp} needs {layout.world_size}"
            )
        deadline = timedelta(seconds=timeout)
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
                dist.init_process_group("nccl", timeout=deadline, device_id=device)
            else:
                dist.init_process_group("gloo", timeout=deadline)
            return cls.over(layout, device, deadline)
        except RuntimeError as error:
            raise RankLost(f"rank {rank}: the {world} ranks did not all meet ({gist(error)})") from error

    @classmethod
    def over(cls, layout: ParallelConfig, device: torch.device, deadline: timedelta) -> Mesh:
        """The layout's groups in a world that torch.distributed has already joined."""
        rank, everyone = dist.get_rank(), range(layout.world_size)
        make = _Maker(rank, deadline)
        return cls(
            layout,
            rank,
            device,
            world=make.group([list(everyone)]),
            tp=make.group(map(layout.tp_ranks, everyone)),
            ep=make.group(map(layout.ep_ranks, everyone)),
            etp=make.group(map(layout.etp_ranks, everyone)),
            control=make.group(map(layout.tp_ranks, everyone), backend="gloo"),
            leaders=make.group([layout.leaders()], backend="gloo"),
        )

    @property
    def leader(self) -> bool:
        """Whether this is the first rank of its data-parallel group."""
        return self.tp.index == 0

    def experts(self, num_experts: int) -> range:
        """The experts of this rank; empty when there are more ranks than experts."""
        return split(num_experts, self.ep.size, self.ep.index)

    def columns(self, width: int) -> range:
        """This rank's part of an expert's width, in whole blocks of 32 but for the last."""
        return split(width, self.etp.size, self.etp.index, MXFP4_BLOCK)

    def close(self) -> None:
        """Leave the groups. After RankLost do not: a rank that lost a peer only exits."""
        if self.world.size > 1:
            dist.destroy_process_group()


class _Maker:
    """Makes process groups in the same order on every rank, those of equal ranks and backend once."""

    def __init__(self, rank: int, deadline: timedelta) -> None:
        self._rank, self._deadline = rank, deadline
        self._made: dict[tuple[str | None, tuple[int, ...]], Any] = {}

    def group(self, families: Iterable[list[int]], backend: str | None = None) -> Group:
        """Of disjoint families of ranks, this rank's own; a rank in none of them gets a group of itself."""
        mine: list[int] | None = None
        for ranks in families:
            if len(ranks) > 1 and (backend, tuple(ranks)) not in self._made:
                group = dist.new_group(ranks, timeout=self._deadline, backend=backend)
                self._made[backend, tuple(ranks)] = group
            if self._rank in ranks:
                mine = ranks
        if mine is None or len(mine) == 1:
            return Group([self._rank])
        return Group(mine, mine.index(self._rank), self._made[backend, tuple(mine)])


def _environment(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise ValueError(f"{name} must be set to a number, as torchrun does, got {os.environ.get(name)!r}") from None
