"""The whole model through other people's engines, where they are installed, beside ours. Absent ones are said to be so.

    python -m yardmaster.bench.peers_model [--models gpt-oss-20b …] [--batches 1 8 …] [--contexts 1024 …]
        [--prompts 2048 …] [--engines vLLM …] [--seconds 600] [--out FILE]

Random weights in the true shapes, random tokens, greedy, no prefix cached. Decoded tokens/s are those of all requests
together once each has its first token; a prompt's are its tokens over the time to the first of the answer.
transformers has its weights in bfloat16, the others in MXFP4. Each engine has the device for itself, in a process of
its own that may die without the others. Who they are and how each is called: peers_engines.py.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from yardmaster.bench.absent import Absent
from yardmaster.bench.gpu_facts import copy_rate, facts, matmul_rate
from yardmaster.bench.gpu_models import MODELS, Model
from yardmaster.bench.peers_engines import ENGINES, OURS, Setting
from yardmaster.bench.peers_task import Task

BATCHES, CONTEXTS, PROMPTS = (1, 8, 32), (1024,), (2048, 8192)
STEPS = 128
ENOUGH = 600

Row = dict[str, Any]


def main() -> int:
    options = _options()
    if options.one is not None:
        with options.rows.open("a") as file:
            for row in ask(options.one, MODELS[options.models[0]], _tasks(options)):
                print(json.dumps(row), file=file, flush=True)
        return 0
    if not torch.cuda.is_available():
        raise SystemExit("bench/peers_model.py needs a CUDA device, and torch sees none")
    record: dict[str, Any] = facts()
    record["copy_gb_per_s"] = round(copy_rate() / 1e9, 1)
    record["matmul_tflop_per_s"] = round(matmul_rate() / 1e12, 1)
    torch.cuda.empty_cache()
    record["rows"] = []
    print(json.dumps(record), flush=True)
    for model in options.models:
        for engine in (OURS, *options.engines):
            record["rows"] += apart(engine, model, options)
            if options.out:
                options.out.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(table(record["rows"])), flush=True)
    return 0


def ask(engine: str, model: Model, tasks: dict[str, Task], device: str = "cuda") -> Iterator[Row]:
    """A row for each task that the engine has done, or that it has not and why."""
    batch = max(task.batch for task in tasks.values())
    length = max(task.prompt + task.tokens for task in tasks.values())
    told = {"engine": engine, "model": model.name}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(model, model.write(Path(folder)), batch, length, device)
        try:
            with ENGINES[engine](setting) as run:
                for what, task in tasks.items():
                    try:
                        run(Task(task.batch, task.prompt, min(4, task.tokens)))  # compiles, captures, tunes
                        times = run(task)
                        took = times.first if what.startswith("prefill") else times.step
                        if took <= 0:
                            raise RuntimeError("its times vary by more than what is measured")
                    except Exception as failure:  # the next task may be one that it can do
                        yield {**told, "what": what, "said": _said(failure)}
                        continue
                    tokens = task.prompt if what.startswith("prefill") else task.batch
                    yield {**told, "what": what, "ms": round(1e3 * took, 3), "tokens_per_s": round(tokens / took, 1)}
        except Exception as failure:  # other people's code may fail in any way, and the others are still to be asked
            yield {**told, "what": "start", "said": _said(failure)}


def apart(engine: str, model: str, options: argparse.Namespace) -> list[Row]:
    """The rows of an engine that runs in a process of its own; what came of it is told as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        rows_file = Path(folder) / "rows"
        rows_file.touch()
        command = [sys.executable, "-m", "yardmaster.bench.peers_model", "--one", engine, "--models", model]
        for name in ("batches", "contexts", "prompts"):
            command += [f"--{name}", *map(str, getattr(options, name))]
        process = subprocess.Popen(
            [*command, "--rows", str(rows_file)],
            stdout=sys.stderr,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # nothing is to be fetched, and none is to wait for it
        )
        try:
            status = process.wait(options.seconds)
            ended = f"failed (it ended with status {status})" if status else None
        except subprocess.TimeoutExpired:
            ended = f"failed (it was not done after {options.seconds:.0f} s)"
        finally:
            _end(process)  # with whatever it has started
        rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    if ended is not None:
        rows.append({"engine": engine, "model": model, "what": "end", "said": ended})
    print("\n".join(table(rows, head=False)), flush=True)
    return rows


def table(rows: list[Row], head: bool = True) -> list[str]:
    """Lines, task by task, each engine beside ours."""
    ours = {(row["model"], row["what"]): row["tokens_per_s"] for row in rows if row["engine"] == OURS and "ms" in row}
    lines = [f"{'model':<14} {'task':<18} {'engine':<16} {'ms':>10} {'tokens/s':>10} {'of ours':>8}"] if head else []
    order = list(dict.fromkeys((row["model"], row["what"]) for row in rows))
    for row in sorted(rows, key=lambda row: order.index((row["model"], row["what"]))):
        line = f"{row['model']:<14} {row['what']:<18} {row['engine']:<16} "
        if "said" in row:
            lines.append(line + row["said"])
            continue
        own = ours.get((row["model"], row["what"]))
        share = "" if own is None else f"{row['tokens_per_s'] / own:>8.2f}"
        lines.append(line + f"{row['ms']:>10.2f} {row['tokens_per_s']:>10,.0f} {share}")
    return lines


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _said(failure: Exception) -> str:
    reason = " ".join(str(failure).split())[:300]
    return f"absent ({reason})" if isinstance(failure, Absent) else f"failed ({type(failure).__name__}: {reason})"


def _tasks(options: argparse.Namespace) -> dict[str, Task]:
    decode = {
        f"decode {batch} at {context}": Task(batch, context, STEPS)
        for context in options.contexts
        for batch in options.batches
    }
    return decode | {f"prefill {prompt}": Task(1, prompt, 2) for prompt in options.prompts}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["gpt-oss-20b"])
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--contexts", nargs="*", type=int, default=list(CONTEXTS))
    parser.add_argument("--prompts", nargs="*", type=int, default=list(PROMPTS))
    theirs = [name for name in ENGINES if name != OURS]
    parser.add_argument("--engines", nargs="*", choices=theirs, default=theirs)
    parser.add_argument("--seconds", type=float, default=ENOUGH, help="for one engine and model, start-up included")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--one", choices=list(ENGINES), help=argparse.SUPPRESS)  # what `apart` starts
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not _tasks(options):
        parser.error("nothing to do: no batches and contexts, and no prompts")
    return options


if __name__ == "__main__":
    sys.exit(main())
