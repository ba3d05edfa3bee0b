"""Attention of chunks over the paged cache on a GPU: its error, then its times beside their floors.

    python -m yardmaster.bench.gpu_attention_prefill [--shapes gpt-oss …] [--cases 8k …] [--tile 128,64,8,3] [--out F]

A floor is the larger of two times: operations (two products over the keys that a token sees) at the matmul rate, and
bytes (queries, results and new keys once, of older keys what is seen, once a chunk) at the copy rate, both rates as
measured in this run. Exits 1 when a result is wrong: times of wrong results are none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yardmaster.bench.gpu_facts import copy_rate, facts, matmul_rate
from yardmaster.kernels.gpu.prefill_attention import prefill_attention
from yardmaster.kernels.gpu.prefill_tile import Tile
from yardmaster.kernels.gpu.timing import microseconds
from yardmaster.kernels.reference import attention as reference

PAGE = 16
TOLERANCE = 1e-2  # of bfloat16 arithmetic against float32; a wrong page is off by 1
ROTATE_BYTES = 1 << 30

attend: Callable[..., torch.Tensor] = prefill_attention
Chunks = tuple[tuple[int, int], ...]  # tokens before the chunk, tokens of it


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer's attention on one device."""

    heads: int
    kv_heads: int
    width: int
    window: int | None = None
    sinks: bool = False

    def work(self, chunks: Chunks) -> tuple[float, float]:
        """Operations that must be done and bytes that must move, in bfloat16."""
        seen = tokens = older = 0
        for start, count in chunks:
            window = self.window or start + count
            low, high = start + 1, start + count
            grows = max(0, min(high, window) - low + 1)  # tokens that do not fill their window
            seen += grows * (low + min(high, window)) // 2 + (count - grows) * window
            tokens += count
            older += min(start, window - 1)
        row = 2 * self.width
        return 4.0 * seen * self.heads * self.width, row * (
            2.0 * tokens * self.heads + 2 * (tokens + older) * self.kv_heads
        )


SHAPES = {
    "gpt-oss": Shape(64, 8, 64, None, True),
    "gpt-oss sliding": Shape(64, 8, 64, 128, True),
    "qwen3-30b": Shape(32, 4, 128),
    "mixtral-8x7b": Shape(32, 8, 128),
}
CASES: dict[str, Chunks] = {
    "2k": ((0, 2048),),
    "8k": ((0, 8192),),
    "8k at 32k": ((32768, 8192),),
    "512 at 32k": ((32768, 512),),
    "16 x 512": ((0, 512),) * 16,
    "64 x 128 at 1k": ((1024, 128),) * 64,
    "uneven": tuple((137 * i % 4096, 61 * i % 700 + 1) for i in range(24)),
}
CHECKED: Chunks = ((0, 1111), (1500, 513), (7, 1), (2048, 0), (640, 64))


class Case:
    """Random inputs of one call; pages in random order, what lies behind a chunk's start is not a number."""

    def __init__(self, shape: Shape, chunks: Chunks, device: str = "cuda") -> None:
        self.shape, self.chunks = shape, chunks
        tokens = sum(count for _, count in chunks)
        qkv = torch.randn(tokens, shape.heads + 2 * shape.kv_heads, shape.width, device=device, dtype=torch.bfloat16)
        self.q, self.k, self.v = qkv.split([shape.heads, shape.kv_heads, shape.kv_heads], 1)
        columns = [-(-start // PAGE) for start, _ in chunks]
        size = sum(columns), PAGE, shape.kv_heads, shape.width
        self.k_cache, self.v_cache = (torch.randn(size, device=device, dtype=torch.bfloat16) for _ in range(2))
        order = torch.randperm(sum(columns), device=device, dtype=torch.int32)
        self.pages = torch.zeros(len(chunks), max(columns) + 1, device=device, dtype=torch.int32)
        for c, own in enumerate(order.split(columns)):
            self.pages[c, : len(own)] = own
            if rest := chunks[c][0] % PAGE:
                self.k_cache[own[-1], rest:] = self.v_cache[own[-1], rest:] = float("nan")
        self.first = torch.zeros(len(chunks), device=device, dtype=torch.int64)
        self.offsets = torch.tensor([0, *[count for _, count in chunks]], device=device).cumsum(0)
        self.starts = torch.tensor([start for start, _ in chunks], device=device)
        self.sinks = torch.randn(shape.heads, device=device) if shape.sinks else None

    def arguments(self) -> tuple[Any, ...]:
        tensors = self.q, self.k, self.v, self.k_cache, self.v_cache, self.pages, self.first, self.offsets, self.starts
        return *tensors, self.sinks, self.shape.window, self.shape.width**-0.5

    def call(self, tile: Tile | None) -> Callable[[], object]:
        return lambda: attend(*self.arguments(), tile=tile)

    def error(self, tile: Tile | None) -> float:
        """Relative difference to float32 arithmetic on the same numbers."""
        got = attend(*self.arguments(), tile=tile).float()
        wide: list[Any] = [
            x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in self.arguments()
        ]
        want = reference.prefill_attention(*wide)
        return float((got - want).norm() / want.norm())


@torch.inference_mode()
def main() -> int:
    options = _options()
    if not torch.cuda.is_available():
        raise SystemExit("bench/gpu_attention_prefill.py needs a CUDA device, and torch sees none")
    torch.manual_seed(options.seed)
    tile = Tile(*map(int, options.tile.split(","))) if options.tile else None
    record: dict[str, Any] = facts()
    record["copy_gb_per_s"] = round(copy_rate() / 1e9, 1)
    record["matmul_tflop_per_s"] = round(matmul_rate() / 1e12, 1)
    print(json.dumps(record), flush=True)
    record["rows"], wrong = [], 0
    for name in options.shapes:
        error = Case(SHAPES[name], CHECKED).error(tile)
        record.setdefault("errors", {})[name] = error
        print(f"{name}: relative error {error:.1e}\n{'shape':<16} {'case':<15} {'us':>8} {'floor':>8} {'ratio':>6}")
        if not error < TOLERANCE:  # NaN is wrong too
            wrong += 1
            continue
        for case in options.cases:
            record["rows"].append(_row(name, case, tile, record))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    if wrong:
        print(f"{wrong} results are wrong", file=sys.stderr)
    return 1 if wrong else 0


def _row(name: str, case: str, tile: Tile | None, rates: dict[str, Any]) -> dict[str, Any]:
    shape, chunks = SHAPES[name], CASES[case]
    operations, moved = shape.work(chunks)
    sets = [Case(shape, chunks) for _ in range(max(2, min(8, int(ROTATE_BYTES / moved))))]
    took = microseconds([one.call(tile) for one in sets])
    floor = max(operations / rates["matmul_tflop_per_s"] / 1e6, moved / rates["copy_gb_per_s"] / 1e3)
    row = {
        "kernel": "prefill attention",
        "shape": name,
        "case": case,
        "us": round(took, 1),
        "floor_us": round(floor, 1),
        "ratio": round(floor / took, 3),
        "tflop_per_s": round(operations / took / 1e6, 1),
    }
    print(f"{name:<16} {case:<15} {took:>8.1f} {floor:>8.1f} {floor / took:>6.3f}", flush=True)
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--tile", help="rows,keys,warps,stages[,registers] instead of the kernel's choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
