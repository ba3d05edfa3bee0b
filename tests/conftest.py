"""Shared fixtures. `ranks` runs a script as several ranks of one world, `model` is a checkpoint to serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton: the GPU kernels run on the CPU

if "PYTEST_XDIST_WORKER" in os.environ:  # as many of us as cores
    torch.set_num_threads(1)

# A busy machine is no fault of an example's: how long it took, or to think of it, says nothing.
hypothesis.settings.register_profile("ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ours")

SERVER = Path(__file__).with_name("rank_server.py")


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a server keeps between runs, it keeps in a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small gpt-oss of random weights, for a server in a process of its own. Not to be written to."""
    from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint

    folder = tmp_path_factory.mktemp("model")
    write_random_checkpoint(folder, small_gpt_oss(num_layers=1, hidden_size=64))
    return folder


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """`threads(2)`: torch has so many, for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """`ranks(script, world, seconds=…, may_die=…, **environment)` -> what the script's `main()` returned on each rank.

    `main` returns JSON, and takes its place in the world from torchrun's environment variables. A rank that raises
    fails the test with its traceback; one that dies does too, unless it `may_die`: then it returned None.
    """
    server = subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert server.stdin
    assert server.stdout

    def run(script: Path, world: int, seconds: float = 120, may_die: bool = False, **environment: str) -> list[Any]:
        folder = tmp_path_factory.mktemp("ranks")
        job = {"script": str(script), "world": world, "seconds": seconds, "environment": environment}
        assert server.stdin
        assert server.stdout
        print(json.dumps({**job, "out": str(folder)}), file=server.stdin, flush=True)
        ended = json.loads(server.stdout.readline())
        outcomes = {int(path.stem): json.loads(path.read_text()) for path in folder.iterdir()}
        errors = [f"rank {rank}:\n{outcome['error']}" for rank, outcome in outcomes.items() if "error" in outcome]
        assert not errors, "\n".join(errors)
        assert None not in ended, f"ranks still ran after {seconds} s: {[r for r, end in enumerate(ended) if not end]}"
        assert may_die or len(outcomes) == world, f"ranks died: {sorted(set(range(world)) - set(outcomes))}"
        return [outcomes.get(rank, {"value": None})["value"] for rank in range(world)]

    yield run
    server.stdin.close()
    server.wait(10)
