"""Who sits where: the arithmetic of ranks, without torch. World = dp x tp; expert grid = replicas x ep x etp."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ParallelConfig:
    """Sizes of the parallel groups. Raises ValueError, naming the flag, when they contradict each other.

    A data-parallel group is `tensor_parallel_size` neighbouring ranks; its first rank leads. Experts are sharded over
    `expert_parallel_size` ranks (None: the whole world). What then remains of the world first splits each expert's
    width inside a tensor-parallel group (`expert_tensor_parallel_size`), and after that holds replicas.
    """

    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    expert_parallel_size: int | None = None

    def __post_init__(self) -> None:
        for flag, size in (("--tensor-parallel-size", self.tp), ("--data-parallel-size", self.dp)):
            if not 1 <= size <= 4096:
                raise ValueError(f"{flag} must be between 1 and 4096, got {size}")
        if self.ep < 1 or self.world_size % self.ep or self.ep * self.etp > self.world_size:
            raise ValueError(
                f"--expert-parallel-size must divide the world of {self.world_size} ranks "
                f"(tp {self.tp} x dp {self.dp}), got {self.ep}"
            )
        if self.world_size % (self.ep * self.etp) or self.tp % self.etp:
            raise ValueError(
                f"--expert-parallel-size {self.ep} does not tile tp {self.tp} x dp {self.dp}: "
                f"choose a power-of-two share, {self.world_size}, or 1"
            )

    @property
    def tp(self) -> int:
        return self.tensor_parallel_size

    @property
    def dp(self) -> int:
        return self.data_parallel_size

    @property
    def world_size(self) -> int:
        return self.tp * self.dp

    @property
    def ep(self) -> int:
        return self.world_size if self.expert_parallel_size is None else self.expert_parallel_size

    @property
    def etp(self) -> int:
        """Ranks that split one expert's width: what ep leaves of the world, at most a tensor-parallel group."""
        return min(self.tp, max(1, self.world_size // max(1, self.ep)))

    @property
    def replicas(self) -> int:
        return self.world_size // (self.ep * self.etp)

    # A block of ep * etp neighbouring ranks holds all experts once. Inside it rank r has expert shard r // etp and
    # width shard r % etp, so the ranks of an etp group are neighbours and sit in one tensor-parallel group.

    def group_of(self, rank: int) -> int:
        """The data-parallel group of a rank."""
        return rank // self.tp

    def tp_ranks(self, rank: int) -> list[int]:
        first = rank // self.tp * self.tp
        return list(range(first, first + self.tp))

    def etp_ranks(self, rank: int) -> list[int]:
        first = rank // self.etp * self.etp
        return list(range(first, first + self.etp))

    def ep_ranks(self, rank: int) -> list[int]:
        block = rank // (self.ep * self.etp) * (self.ep * self.etp)
        first = block + rank % self.etp
        return list(range(first, first + self.ep * self.etp, self.etp))

    def leaders(self) -> list[int]:
        return list(range(0, self.world_size, self.tp))


def split(total: int, parts: int, index: int, unit: int = 1) -> range:
    """The `index`-th of `parts` near-equal neighbouring ranges of `total`, in multiples of `unit`; early parts longer.

    `total` need not divide by `parts`; the last range takes what is left of an incomplete unit.
    """
    units = -(-total // unit)
    base, extra = divmod(units, parts)
    first = index * base + min(index, extra)
    last = first + base + (index < extra)
    return range(min(first * unit, total), min(last * unit, total))
