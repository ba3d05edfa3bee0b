"""The front end's process as an operator has it: signals, exit codes, and nobody left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from yardmaster.tests.server_process import ServerProcess

SERVE = Path(__file__).with_name("fake_serve.py")
SLOW_TOKEN = 7


class Server(ServerProcess):
    """A running `fake_serve.py`, its output, and every process under it."""

    def __init__(self, model: Path, tp: int, dp: int, launcher: list[str]) -> None:
        super().__init__(SERVE, model, tp, dp, launcher=launcher)
        self.wait_for("ready: ", 60)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def wait_for(self, text: str, seconds: float) -> None:
        self.wait_until(lambda: text in self.output, seconds)

    def rank(self, rank: int) -> psutil.Process:
        return next(
            p for p in self.family if p.environ().get("RANK") == str(rank) and "front" not in " ".join(p.cmdline())
        )

    def stream(self, tokens: int) -> Iterator[str]:
        body = {"prompt": [SLOW_TOKEN, 1], "max_tokens": tokens, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=30) as response:
            assert response.status_code == 200
            yield from (line for line in response.iter_lines() if line)

    def left(self, seconds: float) -> list[psutil.Process]:
        psutil.wait_procs(self.family, timeout=seconds)
        return [p for p in self.family if p.is_running() and p.status() != "zombie"]

    def close(self) -> None:
        for process in [self.process, *self.family]:
            if process.poll() is None if isinstance(process, subprocess.Popen) else process.is_running():
                process.kill()
        self.process.wait(10)


@pytest.fixture
def serve(model: Path) -> Iterator[type[Server]]:
    servers: list[Server] = []

    def start(tp: int, dp: int, *launcher: str) -> Server:
        servers.append(Server(model, tp, dp, list(launcher) or [sys.executable]))
        return servers[-1]

    yield start  # type: ignore[misc]
    for server in servers:
        server.close()


def test_a_signal_lets_answers_finish_and_ends_with_zero(serve: type[Server]) -> None:
    server = serve(1, 1)  # type: ignore[call-arg, arg-type]
    assert httpx.get(f"{server.url}/ready").status_code == 200
    lines = server.stream(30)
    next(lines)
    server.process.send_signal(signal.SIGTERM)
    rest = list(lines)
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2]
    assert server.process.wait(10) == 0
    assert server.left(1) == []
    assert "Traceback" not in server.output


def test_a_killed_front_end_leaves_no_ranks(serve: type[Server]) -> None:
    server = serve(1, 1)  # type: ignore[call-arg, arg-type]
    lines = server.stream(400)
    next(lines)
    server.process.kill()
    assert server.left(10) == []


def test_under_torchrun_a_dead_rank_is_named_and_clients_are_told(serve: type[Server]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    server = serve(1, 2, *torchrun)  # type: ignore[call-arg, arg-type]
    assert list(server.stream(3))[-1] == "data: [DONE]"
    lines = server.stream(400)
    next(lines)
    start = time.monotonic()
    server.rank(1).kill()
    rest = list(lines)
    assert any("engine_dead" in line for line in rest)
    assert time.monotonic() - start < 8
    assert server.process.wait(10) != 0
    assert server.left(10 - (time.monotonic() - start)) == []
    server_line = [line for line in server.lines if "died or hung" in line]
    assert len(server_line) == 1
    assert "rank 1 died or hung" in server_line[0]


@pytest.mark.slow
def test_under_torchrun_a_signal_lets_answers_finish(serve: type[Server]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    server = serve(2, 1, *torchrun)  # type: ignore[call-arg, arg-type]
    lines = server.stream(120)
    next(lines)
    server.process.send_signal(signal.SIGTERM)
    rest = list(lines)
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2]
    server.process.wait(15)
    assert server.left(3) == []


def test_a_port_in_use_is_said_before_anything_starts(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, str(SERVE), str(model), str(port), "1", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"--port {port}" in done.stderr.splitlines()[-1]
