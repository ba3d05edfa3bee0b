"""Everything to know about Yardmaster on one GPU, in one call: is it right, how fast, how far from the floor.

    python -m yardmaster.bench.gpu [--parts tests experts …] [--seconds 600] [--out FOLDER]

First the tests that need a GPU, then each benchmark in a process of its own: a part that hangs or breaks the device is
ended, said, and the others still run. Each calibrates the device by itself and prints measured time, floor, ratio, and
what we ask of ourselves (must, stretch). With --out a part leaves FOLDER/PART.json, and what it printed beside it; what
comes after `--` goes to the parts' own command lines. Exits 1 when a result is wrong or a part failed.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE_SECONDS = 30.0  # between being told to end and being ended
TESTS = Path(__file__).parent.parent / "tests"

PARTS = {
    "tests": "",  # pytest -m gpu
    "experts": "gpu_experts",
    "attention": "gpu_attention",
    "prefill": "gpu_attention_prefill",
    "small": "gpu_small",
    "sample": "gpu_sample",
    "engine": "gpu_engine",
    "served": "gpu_served",
}


def main() -> int:
    options = _options()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in options.parts:
        began = time.monotonic()
        print(f"== {part}", flush=True)
        reason = run(part, command(part, options), options.out, options.seconds)
        print(f"== {part}: {reason or 'done'} after {time.monotonic() - began:.0f} s\n", flush=True)
        if reason:
            failed.append(part)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def command(part: str, options: argparse.Namespace) -> list[str]:
    """What runs a part."""
    if part == "tests":
        return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(TESTS), *options.rest]
    line = [sys.executable, "-m", f"yardmaster.bench.{PARTS[part]}", *options.rest]
    if options.out:
        line += ["--out", str(options.out / f"{part}.json")]
        if part == "served" and (own := options.out / "engine.json").exists():
            line += ["--engine", str(own)]
    return line


def run(part: str, line: list[str], out: Path | None, seconds: float) -> str:
    """Run one part and show what it prints as it comes; why it failed, or nothing."""
    log = (out / f"{part}.txt").open("w") if out else None
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limits = [
        threading.Timer(seconds, process.send_signal, [signal.SIGINT]),  # so that it ends what it has started
        threading.Timer(seconds + GRACE_SECONDS, process.kill),
    ]
    began = time.monotonic()
    for limit in limits:
        limit.start()
    try:
        assert process.stdout is not None
        for text in process.stdout:
            print(text, end="", flush=True)
            if log:
                log.write(text)
        code = process.wait()
    finally:
        for limit in limits:
            limit.cancel()
        if log:
            log.close()
    if time.monotonic() - began > seconds:
        return f"ended: more than {seconds:.0f} s"
    return f"exit {code}" if code else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=1200.0, help="limit of one part")
    parser.add_argument("--out", type=Path, help="a folder for JSON and what was printed")
    mine, rest = sys.argv[1:], []
    if "--" in mine:
        at = mine.index("--")
        mine, rest = mine[:at], mine[at + 1 :]
    options = parser.parse_args(mine)
    options.rest = rest
    return options


if __name__ == "__main__":
    sys.exit(main())
