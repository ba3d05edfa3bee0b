"""This machine's vector unit, and machine code for it: LLVM (llvmlite) compiles at start-up, no C compiler is needed.

What enters: a module of LLVM instructions (see code.py). What leaves: a function Python can call with an array of
arguments and a number of threads. The work is spread over torch's own OpenMP threads, so that torch's operators and
ours do not fight for cores: the compiled code calls `GOMP_parallel` of the library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import struct
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

FEW = 1 << 15  # operations: a few microseconds


@dataclass(frozen=True, slots=True)
class Host:
    """What the emitted code may rely on. A register tile of `rows` x `tokens` sums must fit the registers."""

    cpu: str
    features: str
    lanes: int  # float32 values a vector register
    tokens: int
    lookup: bool  # one instruction picks `lanes` floats out of a table of as many (vpermps)
    rows: int = 4

    def __post_init__(self) -> None:
        if self.lanes not in (4, 8, 16) or self.rows != 4 or not 1 <= self.tokens <= 8:
            raise ValueError(f"no register tile for {self.lanes} lanes, {self.rows} rows, {self.tokens} tokens")


@cache
def available() -> bool:
    """Whether the compiled kernels can run here: Linux, torch on OpenMP, llvmlite installed, AVX2 or NEON."""
    if platform.system() != "Linux" or importlib.util.find_spec("llvmlite") is None:
        return False
    return _gomp_parallel() is not None and host() is not None


@cache
def host() -> Host | None:
    """The widest tile this processor can hold, or None when it is none that the kernels were written for."""
    from llvmlite import binding as llvm

    machine = platform.machine()
    has = llvm.get_host_cpu_features()
    describe = llvm.get_host_cpu_name(), has.flatten()
    if machine == "x86_64":
        if has.get("avx512f") and has.get("avx512vl") and has.get("avx512bw"):
            return Host(*describe, lanes=16, tokens=5, lookup=True)  # 32 registers: 20 sums, 8 weights, 1 input
        if has.get("avx2") and has.get("fma") and has.get("f16c"):
            return Host(*describe, lanes=8, tokens=2, lookup=True)  # 16 registers
    if machine == "aarch64":
        return Host(*describe, lanes=4, tokens=4, lookup=False)  # 32 registers
    return None


def this_host() -> Host:
    """As `host`. Raises RuntimeError where there is none."""
    found = host()
    if found is None:
        raise RuntimeError("this processor has no kernels of ours; see kernels/cpu/host.py")
    return found


def workers(operations: int) -> int:
    """How many threads so many multiplications, or values to be moved, are worth: a few are done before others wake."""
    return torch.get_num_threads() if operations > FEW else 1


class Program:
    """A compiled module: call it with the arguments of its `layout` (see work.py). Returns its status."""

    def __init__(self, module: Any, target: Host, layout: str) -> None:
        from llvmlite import binding as llvm

        began = time.perf_counter()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.add_symbol("GOMP_parallel", _gomp_parallel())
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=target.cpu, features=target.features, opt=3, jit=True
        )
        # The code is vectorised and unrolled as written: LLVM only has to simplify it and allot registers.
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
        llvm.create_pass_builder(machine, options).getModulePassManager().run(
            parsed, llvm.create_pass_builder(machine, options)
        )
        self._engine = llvm.create_mcjit_compiler(parsed, machine)  # owns the machine code: must outlive the address
        self._engine.finalize_object()
        # Packed bytes are what Python hands over fastest; the entry copies them.
        signature = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_int32)
        self._entry = signature(self._engine.get_function_address("entry"))
        self._pack = struct.Struct(layout).pack
        self.compile_seconds = time.perf_counter() - began

    def __call__(self, num_threads: int, *arguments: float) -> int:
        """`arguments` are tensor addresses, sizes and numbers; every tensor must stay alive during the call."""
        return self._entry(self._pack(*arguments), num_threads)


@cache
def _gomp_parallel() -> int | None:
    """Address of `GOMP_parallel` in the process: torch loads its OpenMP library for all to see."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None
