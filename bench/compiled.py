"""What the compiler makes of the GPU kernels, without a GPU: registers, spills, load widths, matrix instructions.

    python -m yardmaster.bench.compiled [--arch 90] [--shapes gpt-oss-120b …] [--tokens 1 128 …]

Compiles the fused mixture-of-experts products for a target with the tiles that the plan chooses for each shape and
number of tokens. Bytes and operations are counted, a time is none: predictions stand in docs/kernels.md, as such.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from yardmaster.bench.gpu_shapes import SHAPES, Shape
from yardmaster.kernels.gpu.experts_plan import Layer, Tile, choose
from yardmaster.kernels.gpu.experts_run import pairs_block
from yardmaster.kernels.gpu.grouped_gemm import grouped_gemm

PROCESSORS = 132  # an H100's
POINTERS = {
    "x": "*bf16",
    "bias": "*bf16",
    "out": "*bf16",
    "partials": "*fp32",
    "arrivals": "*i32",
    "keys": "*i64",
    "order": "*i64",
    "counts": "*i64",
}
WEIGHTS = {"dense": ("*bf16", "*bf16"), "mxfp4": ("*i32", "*i32"), "fp8": ("*fp8e4nv", "*fp32")}
FREE = ("pairs", "cells")  # not specialised


@dataclass(frozen=True, slots=True)
class Report:
    registers: int
    spills: int  # bytes of local memory
    shared: int  # bytes
    conversions: int  # layout conversions of weights through shared memory, in the loop
    instructions: Counter[str]

    @property
    def products(self) -> int:
        return sum(count for name, count in self.instructions.items() if name.startswith("HGMMA"))


def compile_product(shape: Shape, tokens: int, gated: bool, arch: int = 90) -> tuple[Tile, Report]:
    """One of the two products of a layer, as it would be launched for so many tokens."""
    weights = "mxfp4" if shape.packed else "dense"
    pairs = tokens * shape.k
    plan = choose(Layer(weights, shape.experts, shape.hidden, shape.width), pairs, PROCESSORS)
    tile = plan.up if gated else plan.down
    outs, inner = (2 * shape.width, shape.hidden) if gated else (shape.hidden, shape.width)
    constants = {
        "token": None,
        "FORMAT": weights,
        "GATED": gated,
        "HAS_BIAS": True,
        "HAS_TOKEN": False,
        "FEW": plan.few,
        "BY_EXPERT": shape.experts < pairs,
        "CLEARS": gated and plan.down.split > 1,
        "PAIRS_BLOCK": pairs_block(pairs) if plan.few else 1,
        "EXPERTS_BLOCK": triton.next_power_of_2(shape.experts),
        "BLOCK_N": tile.block_n,
        "BLOCK_M": tile.block_m,
        "BLOCK_K": tile.block_k,
        "SPLIT": tile.split if plan.few else 1,
        "STAGES": tile.stages,
        "WIDE": False,
    }
    sizes = {"slots": shape.k, "experts": shape.experts, "outs": outs, "inner": inner}
    signature, attributes = {}, {}
    for index, name in enumerate(grouped_gemm.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("weights", "scales"):
            signature[name] = WEIGHTS[weights][name == "scales"]
        elif name in POINTERS:
            signature[name] = POINTERS[name]
        else:
            signature[name] = "fp32" if name in ("limit", "alpha", "shift") else "i32"
        whole = signature[name].startswith("*") or (name not in FREE and sizes.get(name, 1) % 16 == 0)
        if name not in constants and whole:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=grouped_gemm, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return tile, _report(compiled)


def _report(compiled: triton.compiler.CompiledKernel) -> Report:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run(tools / "cuobjdump", "-res-usage", file.name)
        listing = _run(tools / "nvdisasm", "-c", file.name)
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    found = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)", listing, re.MULTILINE)
    conversions = len(re.findall(r"ttg\.convert_layout .*-> tensor<\d+x\d+xbf16, #ttg\.dot_op", compiled.asm["ttgir"]))
    return Report(registers, stack, compiled.metadata.shared, conversions, Counter(found))


def _run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, default=90, help="compute capability times ten")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 8, 32, 128, 512, 2048, 8192])
    options = parser.parse_args()
    print(f"Triton {triton.__version__}, sm_{options.arch}")
    print("shape                 tokens product    n    m    k split  regs spill  shared  HGMMA  ld128 ld<128   instr")
    for name in options.shapes:
        for tokens in options.tokens:
            for gated in (True, False):
                tile, report = compile_product(SHAPES[name], tokens, gated, options.arch)
                loads = {op: n for op, n in report.instructions.items() if op.startswith(("LDGSTS", "LDG."))}
                wide = sum(n for op, n in loads.items() if "128" in op)
                print(
                    f"{name:<21} {tokens:>6} {'up' if gated else 'down':<7} {tile.block_n:>4} {tile.block_m:>4} "
                    f"{tile.block_k:>4} {tile.split:>5} {report.registers:>5} {report.spills:>5} {report.shared:>7} "
                    f"{report.products:>6} {wide:>6} {sum(loads.values()) - wide:>6} {report.instructions.total():>7}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
