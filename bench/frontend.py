"""What the front end costs: HTTP, prompts, detokenizing and server-sent events around an engine that costs nothing.

    python -m yardmaster.bench.frontend --api-servers 1 2 --streams 1 64 256 1000 --out

Everything is as it is served: front ends, hub and rank in processes of their own, the wire between them, Harmony's
encoder and parser; only the rank is bench/null_rank.py. The client is one process more on the same machine. Measures:
- requests: short requests, answered whole or streamed, one after the other on each connection. Requests a second.
- paced: streams with a token each `--interval` ms, due at a known time. Added milliseconds a token: its arrival at the
  client after that time. More than one token an event is what was merged because the server was behind.
- rate: the same at a pace beyond what one process can word. Tokens a second, and how many events they came in.
CPU time is that of the front ends and the hub, without rank and client.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from yardmaster.bench.frontend_client import Found, requests, streams
from yardmaster.engine.channel import private_address
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.scheduler import SchedulerConfig
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.server.front import run
from yardmaster.server.http.config import HttpConfig

RESULTS = Path(__file__).parent / "results"
RANK = (sys.executable, "-m", "yardmaster.bench.null_rank")
TOKENS = 16  # of a short answer
CONNECTIONS = 64
LONGEST = 60_000  # tokens of an answer: the context has 65,536
VOCABULARY = 32_768


class NullRanks:
    """See `zmq_client.Ranks`."""

    def __init__(self, address: str, model: Path) -> None:
        self._process = subprocess.Popen([*RANK, address, str(model)])

    def ended(self) -> str | None:
        return None if self._process.poll() is None else "the null rank ended"

    async def stop(self, orderly: bool) -> None:
        self._process.terminate()
        self._process.wait()


def serve(port: int, api_servers: int, model: Path) -> int:
    limits = SchedulerConfig(max_num_seqs=2048, max_num_batched_tokens=8192, max_model_len=1 << 16)
    engine = EngineConfig(model=str(model), scheduler=limits)
    http = HttpConfig(("null",), port=port, api_servers=api_servers, response_store="off")
    with private_address() as address:
        return run(engine, http, address, lambda bound: NullRanks(bound, model))


@contextmanager
def served(api_servers: int, model: Path) -> Iterator[tuple[int, int]]:
    """A server's port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "yardmaster.bench.frontend", "--serve", str(port), str(api_servers), str(model)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not _ready(port):
            if time.monotonic() > deadline or server.poll() is not None:
                raise RuntimeError("the server did not start")
            time.sleep(0.1)
        yield port, server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def _ready(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2).status == 200)
    except OSError:
        return False


def cpu_seconds(server: int) -> float:
    """Of the process and of the front ends under it, but not of the rank."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    doors = [child for child in children if "hub.door" in Path(f"/proc/{child}/cmdline").read_text()]
    total = 0
    for process in (server, *doors):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _told(measure: str, found: Found, busy: float) -> dict[str, Any]:
    row: dict[str, Any] = {"measure": measure, "requests": found.requests, "tokens": found.tokens}
    if found.latencies:
        row["requests_per_s"] = round(found.requests / found.seconds)
        row["latency_ms_p50"] = round(1e3 * statistics.median(found.latencies), 2)
        row["latency_ms_p99"] = round(1e3 * _p99(found.latencies), 2)
        row["cpu_us_per_request"] = round(1e6 * busy / found.requests)
    if found.late:
        row["tokens_per_s"] = round(found.tokens / found.seconds)
        row["events_per_s"] = round(found.events / found.seconds)
        row["tokens_per_event"] = round(found.tokens / found.events, 2)
        row["added_ms_p50"] = round(1e3 * statistics.median(found.late), 3)
        row["added_ms_p99"] = round(1e3 * _p99(found.late), 3)
        row["cpu_us_per_token"] = round(1e6 * busy / found.tokens, 1)
    return row


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def measure(options: argparse.Namespace, api_servers: int, model: Path) -> Iterator[dict[str, Any]]:
    with served(api_servers, model) as (port, server):

        def timed(name: str, work: Any) -> dict[str, Any]:
            before = cpu_seconds(server)
            found = uvloop.run(work)
            return {"api_servers": api_servers} | _told(name, found, cpu_seconds(server) - before)

        timed("warm-up", requests(port, 8, 1.0, TOKENS, True))
        for kind in ("whole", "streamed"):
            work = requests(port, CONNECTIONS, options.seconds, TOKENS, kind == "streamed")
            yield {"kind": kind, "connections": CONNECTIONS} | timed("requests", work)
        for count in options.streams:
            pause = options.interval / 1e3
            work = streams(port, count, max(2, int(options.seconds / pause)), pause)
            yield {"streams": count, "interval_ms": options.interval} | timed("paced", work)
        for count in options.streams:
            pause = max(1e-6, round(count / options.offer, 6))
            work = streams(port, count, min(LONGEST, max(2, int(options.seconds / pause))), pause)
            yield {"streams": count, "offered_per_s": options.offer} | timed("rate", work)


def about() -> dict[str, Any]:
    """What a figure must be told with."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    names = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": git.stdout.strip(),
        "machine": next(names, "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "command": " ".join(["python -m yardmaster.bench.frontend", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api-servers", type=int, nargs="+", default=[1], help="front-end processes, each in turn")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 256, 1000])
    parser.add_argument("--interval", type=float, default=20.0, help="ms between the tokens of a paced stream")
    parser.add_argument("--offer", type=float, default=100_000.0, help="tokens/s that are given in `rate`")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--out", action="store_true", help=f"write {RESULTS.name}/frontend-DATE.json")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        port, api_servers, model = options.serve
        return serve(int(port), int(api_servers), Path(model))
    result: dict[str, Any] = {"what": "the front end before an engine that costs nothing"} | about() | {"rows": []}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_random_checkpoint(
            model, small_gpt_oss(num_layers=1, hidden_size=64, vocab_size=VOCABULARY), tokenizer_vocab=VOCABULARY
        )
        for api_servers in options.api_servers:
            for row in measure(options, api_servers, model):
                result["rows"].append(row)
                print(json.dumps(row), flush=True)
    if options.out:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"frontend-{result['date']}.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
