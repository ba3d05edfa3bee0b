"""Honest times on a GPU: graph replays over rotating inputs, medians, and the two ceilings of the same run."""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

REPLAYS = 40
COPY_BYTES = 2 << 30
MATMUL = 8192  # a side of the square product


def microseconds(calls: Sequence[Callable[[], object]], replays: int = REPLAYS) -> float:
    """Median time of one call, all of `calls` captured one behind the other in one graph.

    Each call brings its own inputs: together they must exceed the caches. Everything runs once before, so that nothing
    is compiled while it is captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return _median(graph.replay, replays) / len(calls)


def eager_microseconds(calls: Sequence[Callable[[], object]], rounds: int = REPLAYS) -> float:
    """The same without a graph, for what cannot be captured: a call that synchronises with the host shows its price."""

    def all_of_them() -> None:
        for call in calls:
            call()

    return _median(all_of_them, rounds) / len(calls)


def _median(run: Callable[[], object], rounds: int) -> float:
    for _ in range(3):
        run()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for began, ended in events:
        began.record()
        run()
        ended.record()
    torch.cuda.synchronize()
    return statistics.median(1000 * began.elapsed_time(ended) for began, ended in events)


def copy_rate() -> float:
    """Bytes a second, read and written, of a large copy."""
    source = torch.randint(256, (COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / microseconds([lambda: target.copy_(source)]) * 1e6


def matmul_rate() -> float:
    """Operations a second of a large bfloat16 product of random numbers."""
    a, b = (torch.randn(MATMUL, MATMUL, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * MATMUL**3 / microseconds([lambda: torch.mm(a, b, out=out)]) * 1e6


def facts() -> dict[str, object]:
    """What a figure must be told with: device, driver, versions, commit, day."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "python": platform.python_version(),
        "commit": _said("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"),
        "date": date.today().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
