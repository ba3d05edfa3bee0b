"""The processes that train together: each takes its share of a step's conversations, all step by the same gradient.

R ranks, with torchrun's environment; without it there is one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from .sample import Sample


class Ranks:
    """This process among those that train. Each keeps all weights, and they stay equal."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._gradients = torch.empty(0)

    @classmethod
    def met(cls, device: str) -> Ranks:
        """As torchrun's environment says; alone where there is none."""
        if "RANK" not in os.environ:
            return cls()
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda else "gloo")
        met = cls(dist.get_rank(), dist.get_world_size())
        if not cuda:
            met._keep_to_own_processors()
        return met

    def _keep_to_own_processors(self) -> None:
        """On a CPU: so that no two ranks of this machine wait for the same one while another is idle."""
        if not hasattr(os, "sched_setaffinity"):  # only Linux has it
            return
        here, local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
        allowed = sorted(os.sched_getaffinity(0))
        if 1 < here <= len(allowed):
            each = len(allowed) // here
            os.sched_setaffinity(0, allowed[local * each : (local + 1) * each])

    @property
    def first(self) -> bool:
        """Whether this is the one that keeps the run's files and tells how it goes."""
        return self.rank == 0

    def wait(self) -> None:
        """For all of them."""
        if self.size > 1:
            dist.barrier()

    def part(self) -> None:
        """At the end."""
        if self.size > 1:
            dist.destroy_process_group()

    def share(self, samples: Sequence[Sample]) -> list[Sample]:
        """This rank's samples of a step: about as many tokens as every other rank's.

        Raises ValueError where there are fewer samples than ranks.
        """
        if len(samples) < self.size:
            raise ValueError(
                f"a step drew {len(samples)} conversations for {self.size} ranks: raise tokens in the config, "
                "or start fewer ranks"
            )
        shares: list[list[Sample]] = [[] for _ in range(self.size)]
        tokens = [0] * self.size
        for sample in sorted(samples, key=lambda sample: -len(sample.ids)):
            least = tokens.index(min(tokens))
            shares[least].append(sample)
            tokens[least] += len(sample.ids)
        return shares[self.rank]

    def hold(self, parameters: Iterable[nn.Parameter]) -> None:
        """Keep the gradients side by side, so that they are added up in one go: they are not to be set to None."""
        if self.size == 1:
            return
        of = list(parameters)
        self._gradients = torch.zeros(sum(parameter.numel() for parameter in of), device=of[0].device)
        for parameter, piece in zip(of, self._gradients.split([each.numel() for each in of]), strict=True):
            parameter.grad = piece.view_as(parameter)

    def least(self, number: int) -> int:
        """The least of all ranks' numbers."""
        if self.size > 1:
            least = torch.tensor(number, device=self._gradients.device)
            dist.all_reduce(least, dist.ReduceOp.MIN)
            number = int(least)
        return number

    def add_up(self, *figures: torch.Tensor) -> list[torch.Tensor]:
        """Make the held gradients their sums over the ranks, and return the sums of `figures`, in float32."""
        if self.size == 1:
            return [figure.detach().float() for figure in figures]
        dist.all_reduce(self._gradients)
        sums = torch.cat([figure.detach().float().flatten() for figure in figures])
        dist.all_reduce(sums)
        split = sums.split([figure.numel() for figure in figures])
        return [piece.view_as(figure) for piece, figure in zip(split, figures, strict=True)]
