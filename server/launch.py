"""Two ways to start the processes, and one engine: `yardmaster serve` brings its own launcher, `torchrun` is one.

    yardmaster serve        the front end; under it the agent of torch elastic; under that one process per rank
    torchrun … serve        the agent(s), on one node or many; rank 0 starts the front end, in a session of its own

This is the one file of the server that may import torch, and only the agent's process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NoReturn, TextIO, cast

from ..engine.channel import AGENT, RankSocket, shared_secret
from ..engine.config import EngineConfig
from ..engine.messages import Failure
from ..engine.watch import DRAIN_SECONDS, GRACE_SECONDS, PARENT_VARIABLE, ending
from ..engine.worker import ADDRESS_VARIABLE, CONFIG_VARIABLE, Build, build_model, leave, limit_threads, run_worker
from ..parallel.layout import ParallelConfig

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

WORKER = (sys.executable, "-m", "yardmaster.engine.worker")
FRONT = (sys.executable, "-m", "yardmaster.server.front")
ANNOUNCE_VARIABLE = "YARDMASTER_ANNOUNCE"  # the descriptor on which a front end under torchrun tells its address
_POLL = 0.05
_LOOK_UP_SECONDS = 300.0  # for the front end's address: it imports and binds meanwhile
_LEAVE_SECONDS = 10.0  # for ranks that were told to finish their step and leave
_FORCE_SECONDS = GRACE_SECONDS + 4.0  # for ranks that were told by a signal
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_RANKS_PER_CORE = 8  # each is a process with torch and a model: more would only wait for one another


class Agent:
    """The front end's hold on torch elastic's agent, its child: see `zmq_client.Ranks`.

    The agent's standard input is a pipe from here: when the front end is gone, however that came, the pipe ends, and
    the agent takes the ranks down.
    """

    def __init__(self, config: EngineConfig, address: str, worker: Sequence[str] = WORKER) -> None:
        environment = os.environ | {
            CONFIG_VARIABLE: config.to_json().decode(),
            ADDRESS_VARIABLE: address,
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(round(GRACE_SECONDS + 1)),  # then the agent kills; by default 30
        }
        command = [sys.executable, "-m", "yardmaster.server.launch", str(config.parallel.world_size), address, *worker]
        # A session of its own: Ctrl-C at a terminal is for the front end, which then stops the ranks in order.
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)

    def ended(self) -> str | None:
        code = self._process.poll()
        return None if code is None else f"the launcher of the ranks {ending(code)}"

    async def stop(self, orderly: bool) -> None:
        if orderly and await self._gone(_LEAVE_SECONDS):
            return
        self._process.terminate()
        if not await self._gone(_FORCE_SECONDS):
            self._process.kill()  # the ranks see their parent gone and end themselves
            await self._gone(_FORCE_SECONDS)

    async def _gone(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_POLL)
        return True


class Parent:
    """A front end's hold on the rank that started it, under torchrun: see `zmq_client.Ranks`."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def ended(self) -> str | None:
        return None if os.getppid() == self._parent else "rank 0, which started this front end, died"

    async def stop(self, orderly: bool) -> None:
        """Ranks that can be told leave by themselves; the others notice that this process ends."""
        end = time.monotonic() + _LEAVE_SECONDS
        while orderly and self.ended() is None and time.monotonic() < end:
            await asyncio.sleep(_POLL)


@dataclass(frozen=True, slots=True)
class World:
    """What torchrun's environment says about this process."""

    rank: int
    size: int
    size_here: int
    master: str

    @classmethod
    def of_environment(cls) -> World | None:
        """None outside torchrun: job platforms set some of its variables too, and count machines with them.

        Raises ValueError for an environment that torchrun did not make.
        """
        if any(name not in os.environ for name in _TORCHRUN):
            return None
        try:
            rank, size, here = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        except ValueError as error:
            raise ValueError(f"RANK, WORLD_SIZE and LOCAL_WORLD_SIZE must be numbers: {error}") from None
        return cls(rank, size, here, os.environ["MASTER_ADDR"])

    @property
    def many_nodes(self) -> bool:
        return self.size_here < self.size

    def check(self, parallel: ParallelConfig) -> None:
        """Raises ValueError, naming the flags, when `parallel` is not of this world's size."""
        if parallel.world_size != self.size:
            raise ValueError(
                f"torchrun started {self.size} ranks, but --tensor-parallel-size {parallel.tp} x --data-parallel-size "
                f"{parallel.dp} needs {parallel.world_size}: make --nproc-per-node x --nnodes the same"
            )


def layout(tp: int | None, dp: int | None, ep: int | None, world: World | None) -> ParallelConfig:
    """The sizes of the groups: under torchrun they must make up its world, and one left out follows from the other.

    Without torchrun all ranks are on this machine. Raises ValueError, naming the flags.
    """
    if world is not None:
        tp = tp or (world.size // dp if dp and world.size % dp == 0 else 1)
        dp = dp or max(1, world.size // tp)
    parallel = ParallelConfig(tp or 1, dp or 1, ep)
    if world is not None:
        world.check(parallel)
    elif parallel.world_size > (most := _RANKS_PER_CORE * EngineConfig(model="-").threads(1)):
        raise ValueError(
            f"--tensor-parallel-size {parallel.tp} x --data-parallel-size {parallel.dp} are {parallel.world_size} "
            f"processes, and this machine's cores carry {most} at most ({_RANKS_PER_CORE} each): choose less, or start "
            "the ranks on several machines with torchrun"
        )
    return parallel


def join(
    config: EngineConfig, world: World, settings: bytes, build: Build = build_model, front: Sequence[str] = FRONT
) -> NoReturn:
    """Be one of torchrun's ranks, and on rank 0 start the front end, which reads `settings`. Ends the process.

    Raises ValueError when there are more or fewer ranks than `config` needs, or several nodes and no shared secret.
    """
    world.check(config.parallel)
    if world.many_nodes:
        shared_secret()
    limit_threads(config)
    process, announced = _start_front(settings, front) if world.rank == 0 else (None, None)

    from ..parallel.rendezvous import Rendezvous

    meeting = Rendezvous()
    if announced is None:
        address = meeting.look_up("front", _LOOK_UP_SECONDS)
    else:
        address = announced.readline().strip()
        if not address:
            leave(1)  # the front end has said why
        for everywhere in ("//0.0.0.0:", "//[::]:"):
            address = address.replace(everywhere, f"//{_host(world.master)}:")
        meeting.publish("front", address)
    leave(run_worker(config, address, build, process, DRAIN_SECONDS))


def _start_front(settings: bytes, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], TextIO]:
    """The front end's process, and the pipe on which it tells its address once it listens.

    In a session of its own: the agent's signals are for the ranks, and the clients are to be answered before it goes.
    """
    reader, writer = os.pipe()
    environment = os.environ | {ANNOUNCE_VARIABLE: str(writer)}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, pass_fds=(writer,), start_new_session=True
    )
    os.close(writer)
    with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", process.stdin) as stdin:
        stdin.write(settings)
    return process, os.fdopen(reader)


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def main(arguments: Sequence[str]) -> int:
    """The agent's process: `launch RANKS ADDRESS COMMAND…`. Tells the front end which rank ended first, and how."""
    ranks, address, *command = arguments
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    threading.Thread(target=_until_orphaned, name="orphaned", daemon=True).start()
    logging.disable(logging.ERROR)  # what the agent finds out, the front end says

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(ranks),
        run_id=f"yardmaster-{os.getpid()}",
        role="rank",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",  # a machine's own name need not resolve
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    try:
        try:
            elastic_launch(config, command[0])(*command[1:])
        finally:
            # The ranks are gone. The agent's handlers stay, and would raise at whatever is done from here on.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
    except ChildFailedError as error:
        _tell(address, error)
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _tell(address: str, error: ChildFailedError) -> None:
    """Tell the front end which rank ended, and how."""
    rank, failure = error.get_first_failure()
    # One look may find several ended, and the first by its clock may be one that only lost the others: a signal
    # that was not the agent's own tells more.
    for other, ended in error.failures.items():
        if ended.exitcode < 0 and ended.exitcode != -signal.SIGTERM:
            rank, failure = other, ended
    text = f"rank {rank} (process {failure.pid}) {ending(failure.exitcode)}"
    if failure.exitcode == -signal.SIGKILL:
        text += "; if nobody did this on purpose, the machine ran out of memory"
    socket = RankSocket(address, AGENT)
    socket.send(Failure(rank, text, symptom=failure.exitcode >= 0))
    socket.close()


def _until_orphaned() -> None:
    """Standard input comes from the front end and ends with it."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
