"""How much memory and time loading one rank's shard of a gpt-oss checkpoint takes.

    python bench/load.py --ranks 4                   makes a checkpoint of about 4 GB first, and deletes it
    python bench/load.py --checkpoint DIR --ranks 2  takes the one in DIR

Each measured rank is a fresh process that allocates its shard (tensor-parallel attention and vocabulary, its own
experts) and loads it, once with the files out of the page cache and once with them in it. `above_shard_mb` is the peak
resident memory during loading, less what was resident before and less the shard itself. The result is printed and
written to bench/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from yardmaster.models.config import ModelConfig
from yardmaster.models.hf_config import load_config
from yardmaster.models.random_checkpoint import small_gpt_oss, tensor_specs, write_random_checkpoint
from yardmaster.parallel.layout import split
from yardmaster.weights.checkpoint import Checkpoint
from yardmaster.weights.load import CHUNK_BYTES, load
from yardmaster.weights.slot import FLOATS, PACKED, Slot, into

RESULTS = Path(__file__).parent / "results"


def shard(config: ModelConfig, ranks: int, rank: int) -> tuple[list[Slot], int]:
    """The slots of one rank, their targets allocated but not touched, and the bytes of those."""
    slots, held = [], 0
    for spec in tensor_specs(config, "BF16", config.quantization == "mxfp4"):
        name, shape = spec.name, spec.shape
        take: tuple[range, ...] = ()
        if "self_attn.o_proj.weight" in name:
            take = (range(shape[0]), split(shape[1], ranks, rank, config.head_dim))
        elif ".experts." in name or "embed_tokens" in name or "lm_head" in name or "sinks" in name:
            take = (split(shape[0], ranks, rank),)
        elif any(f"self_attn.{kind}_proj" in name for kind in "qkv"):
            take = (split(shape[0], ranks, rank, config.head_dim),)
        packed = spec.dtype == "U8"
        sizes = [len(taken) for taken in take] + list(shape[len(take) :])
        target = torch.empty(sizes, dtype=torch.uint8 if packed else torch.bfloat16)
        held += target.nbytes
        slots.append(Slot(name, shape, into(target), take, PACKED if packed else FLOATS))
    return slots, held


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(directory: Path, ranks: int, rank: int, cold: bool) -> dict[str, Any]:
    """Load one shard in this process."""
    config = load_config(directory)
    if cold:
        for path in directory.glob("*.safetensors"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    slots, held = shard(config, ranks, rank)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = resident("VmRSS")
    begin = time.perf_counter()
    with Checkpoint(directory) as checkpoint:
        load(checkpoint, slots)
    seconds = time.perf_counter() - begin
    return {
        "rank": rank,
        "cache": "cold" if cold else "warm",
        "shard_gb": round(held / 1e9, 3),
        "above_shard_mb": round((resident("VmHWM") - before - held) / 1e6, 1),
        "seconds": round(seconds, 3),
        "gb_per_second": round(held / 1e9 / seconds, 2),
    }


def machine() -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--experts", choices=("bfloat16", "mxfp4"), default="bfloat16")
    parser.add_argument("--layers", type=int, default=20, help="of the checkpoint made: 0.2 GB each in bfloat16")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        rank, cache = options.child
        print(json.dumps(measure(options.checkpoint, options.ranks, int(rank), cache == "cold")))
        return
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.checkpoint
        if directory is None:
            directory = Path(scratch) / "model"
            sizes = {"hidden_size": 960, "expert_width": 960, "num_experts": 32, "num_heads": 32, "head_dim": 64}
            config = small_gpt_oss(vocab_size=201088, num_layers=options.layers, **sizes)
            write_random_checkpoint(directory, config, experts=options.experts, max_shard_bytes=1_000_000_000)
        with Checkpoint(directory) as checkpoint:
            total = checkpoint.total_bytes
        rows = []
        for rank in sorted({0, options.ranks - 1}):
            for cache in ("cold", "warm"):
                command = [sys.executable, __file__, "--checkpoint", str(directory), "--ranks", str(options.ranks)]
                child = subprocess.run([*command, "--child", str(rank), cache], stdout=subprocess.PIPE, check=True)
                rows.append(json.loads(child.stdout))
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    now = datetime.datetime.now(datetime.UTC)
    result = {
        "bench": "load",
        "date": now.isoformat(timespec="seconds"),
        "commit": git.stdout.strip(),
        "machine": machine(),
        "checkpoint_gb": round(total / 1e9, 3),
        "ranks": options.ranks,
        "chunk_mb": round(CHUNK_BYTES / 1e6, 1),
        "loads": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"load-{now:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
