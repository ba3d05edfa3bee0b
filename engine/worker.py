"""A rank's process: joins the others, builds its part of the engine, runs the loop, and says how it ended.

Started by the launcher with torchrun's environment and, beside it, the engine's config and the front end's address.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from .channel import RankSocket
from .config import EngineConfig
from .follower import follow
from .leader import Leader
from .messages import Hello, RankReport, Ready
from .reporter import Reporter
from .watch import GRACE_SECONDS, Watch

if TYPE_CHECKING:
    import torch

    from ..parallel.control import Control
    from ..parallel.mesh import Mesh
    from .build import BuiltEngine

log = logging.getLogger(__name__)

CONFIG_VARIABLE = "YARDMASTER_ENGINE"
ADDRESS_VARIABLE = "YARDMASTER_FRONT"

Build = Callable[[EngineConfig, "Mesh", Callable[[str], None]], "BuiltEngine"]


def run_worker(
    config: EngineConfig,
    address: str,
    build: Build,
    front: subprocess.Popen[bytes] | None = None,
    drain: float = GRACE_SECONDS,
) -> int:
    """Be the rank that torchrun's environment names until the front end says Shutdown; the exit code.

    `build` makes the executor; `front` and `drain` are the `Watch`'s. A failure goes to the front end as one line, and
    to the log with its traceback when it is not the user's to mend.
    """
    rank = int(os.environ["RANK"])
    limit_threads(config)
    reporter = Reporter(address, rank)

    def give_up(reason: str) -> None:
        reporter.fail(reason, symptom=True)
        reporter.close()

    watch = Watch(give_up, front, drain)
    started = False

    def on_ready(control: Control) -> None:
        nonlocal started
        started = True
        watch.rounds = lambda: control.rounds

    try:
        _run(config, address, build, rank, reporter, on_ready)
        return 0
    except Exception as error:
        from ..parallel.control import lost_peers

        symptom = lost_peers(error)
        if symptom or isinstance(error, ConnectionError) or (not started and isinstance(error, ValueError | OSError)):
            reporter.fail(str(error) or type(error).__name__, symptom)
        else:
            log.error("rank %d failed\n%s", rank, traceback.format_exc())
            reporter.fail(f"{type(error).__name__}: {error}")
        return 1
    finally:
        reporter.close()
        watch.close()


def _run(
    config: EngineConfig,
    address: str,
    build: Build,
    rank: int,
    reporter: Reporter,
    on_ready: Callable[[Control], None],
) -> None:
    layout = config.parallel
    group, leader = layout.group_of(rank), rank in layout.leaders()
    reporter.send(Hello(rank=rank, world_size=layout.world_size, group=group, leader=leader))

    import torch

    from ..parallel.control import Control
    from ..parallel.mesh import Mesh

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    device = pick_device(config)
    mesh = Mesh.single(device) if layout.world_size == 1 else Mesh.join(layout, device, config.collective_timeout)
    built = build(config, mesh, _speak if os.environ.get("LOCAL_RANK", "0") == "0" else lambda line: None)
    reporter.counters = lambda: report_of(rank, built)
    ready = Ready(
        rank=rank,
        group=group,
        leader=leader,
        max_model_len=built.max_model_len,
        kv_tokens=built.kv_tokens,
        ledger=built.ledger,
    )
    if layout.world_size > 1:
        from ..parallel.rendezvous import Rendezvous

        Rendezvous().meet("ready")
    control = Control(mesh)
    on_ready(control)
    if leader:
        wire = RankSocket(address, f"rank-{rank}")
        try:
            wire.send(ready)  # over this socket, so that whoever has read it can answer over it
            Leader.of(config, group, built, control, wire).run()
        finally:
            wire.close()
    else:
        reporter.send(ready)
        follow(built.executor, control)
    mesh.close()


def _speak(line: str) -> None:
    """To the person who waits for the start: ranks are alike, so the first of a machine speaks for all."""
    with suppress(OSError):  # nobody listens any more
        print(line, file=sys.stderr, flush=True)


def report_of(rank: int, built: BuiltEngine) -> RankReport:
    """A heartbeat: the dispatcher's totals, and how evenly the experts were used since the one before."""
    totals = built.counters
    return RankReport(
        rank=rank,
        expert_tokens=totals.expert_rows,
        layer_imbalance=built.expert_load.imbalance(),
        dispatch_seconds=totals.dispatch_seconds,
        combine_seconds=totals.combine_seconds,
        dispatch_bytes=totals.dispatch_bytes,
        combine_bytes=totals.combine_bytes,
        busy_seconds=built.executor.clock.busy_seconds,
        waited_seconds=built.executor.clock.waited_seconds,
    )


def pick_device(config: EngineConfig) -> torch.device:
    """This rank's device. Raises ValueError when there are fewer GPUs than ranks here."""
    import torch

    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpus:
        raise ValueError(
            f"local rank {local_rank} has no GPU of its own: this machine shows {gpus} "
            "(lower --tensor-parallel-size or --data-parallel-size, or give --device cpu)"
        )
    return torch.device("cuda", local_rank)


def limit_threads(config: EngineConfig) -> None:
    """Give this rank its part of the cores. Counts only before torch is first imported."""
    os.environ["OMP_NUM_THREADS"] = str(config.threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def build_model(config: EngineConfig, mesh: Mesh, report: Callable[[str], None]) -> BuiltEngine:
    """`build.build_executor`, imported only once the rank has said hello: it brings torch."""
    from .build import build_executor

    return build_executor(config, mesh, report)


def main() -> int:
    """The entry of `python -m yardmaster.engine.worker`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    config = EngineConfig.from_json(os.environ[CONFIG_VARIABLE])
    return run_worker(config, os.environ[ADDRESS_VARIABLE], build_model)


def leave(code: int) -> NoReturn:
    """End this process at once: after a failure, the destructors of process groups may wait for ranks that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
