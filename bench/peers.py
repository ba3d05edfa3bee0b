"""The same mixture-of-experts layer through other people's code, where it is installed. Absent ones are said to be so.

    python -m yardmaster.bench.peers [--shapes gpt-oss-20b …] [--tokens 1 8 …] [--out FILE]

Same random bits, same tokens, same choice of experts, several layers of weights in rotation, graph replay where the
peer can be captured. A peer's result is compared with ours first: a figure of something else is no figure. Routing is
not part of it, the sum over a token's experts is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from yardmaster.bench.gpu_facts import copy_rate, facts, matmul_rate
from yardmaster.bench.gpu_moe import Bench, random_checkpoint
from yardmaster.bench.gpu_shapes import SHAPES, TOKENS, Shape
from yardmaster.kernels.gpu.timing import eager_microseconds, microseconds
from yardmaster.kernels.reference.experts import apply_glu
from yardmaster.kernels.reference.mxfp4 import unpack

# (tokens, expert ids, gate weights) -> tokens
Experts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Weights = dict[str, torch.Tensor]
TOLERANCE = 5e-2  # two bfloat16 results of one thing


class Absent(Exception):
    """Why a peer cannot be asked."""


def dense(weights: Weights, name: str) -> torch.Tensor:
    """A projection as bfloat16 (experts, in, out), whatever it is stored in."""
    if name in weights:
        return weights[name]
    blocks, scales = weights[f"{name}_blocks"], weights[f"{name}_scales"]
    return torch.stack([unpack(*pair).t() for pair in zip(blocks, scales, strict=True)])


def torch_grouped_mm(shape: Shape, weights: Weights) -> Experts:
    """torch.nn.functional.grouped_mm on sorted rows: bfloat16 weights."""
    up, down = dense(weights, "gate_up_proj"), dense(weights, "down_proj")
    up_bias, down_bias = weights["gate_up_proj_bias"], weights["down_proj_bias"]

    def run(x_TD: torch.Tensor, ids_TK: torch.Tensor, gates_TK: torch.Tensor) -> torch.Tensor:
        order = ids_TK.flatten().argsort()
        expert = ids_TK.flatten()[order]
        ends = torch.searchsorted(expert, torch.arange(1, shape.experts + 1, device=x_TD.device)).to(torch.int32)
        hidden = F.grouped_mm(x_TD[order // shape.k], up, offs=ends) + up_bias[expert]
        rows = F.grouped_mm(apply_glu(hidden, shape.glu), down, offs=ends) + down_bias[expert]
        rows = rows * gates_TK.flatten()[order, None]
        return torch.zeros_like(x_TD, dtype=torch.float32).index_add_(0, order // shape.k, rows.float()).to(x_TD.dtype)

    return run


def transformers_grouped_mm(shape: Shape, weights: Weights) -> Experts:
    """transformers' gpt-oss experts with its grouped_mm implementation: bfloat16 weights."""
    if shape.glu.shift != 1.0:
        raise Absent("its class here is gpt-oss's")
    try:
        from transformers import GptOssConfig
        from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
    except ImportError as error:
        raise Absent(str(error)) from error
    config = GptOssConfig(hidden_size=shape.hidden, intermediate_size=shape.width, num_local_experts=shape.experts)
    config._experts_implementation = "grouped_mm"
    with torch.device("meta"):
        module = GptOssExperts(config)
    for name in ("gate_up_proj", "down_proj"):
        setattr(module, name, torch.nn.Parameter(dense(weights, name), requires_grad=False))
        setattr(module, f"{name}_bias", torch.nn.Parameter(weights[f"{name}_bias"], requires_grad=False))
    return lambda x_TD, ids_TK, gates_TK: module(x_TD, ids_TK, gates_TK.to(x_TD.dtype))


def triton_kernels(shape: Shape, weights: Weights) -> Experts:
    """OpenAI's matmul_ogs with MXFP4 weights in its own layout, as vLLM and transformers call it."""
    if not shape.packed:
        raise Absent("run for MXFP4 only")
    try:
        from triton_kernels.matmul_ogs import FlexCtx, FnSpecs, FusedActivation, PrecisionConfig, matmul_ogs
        from triton_kernels.numerics import InFlexData
        from triton_kernels.routing import routing
        from triton_kernels.swiglu import swiglu_fn
        from triton_kernels.tensor import FP4, convert_layout, wrap_torch_tensor
        from triton_kernels.tensor_details import layout
    except ImportError as error:
        raise Absent(str(error)) from error
    value_layout, value_options = layout.make_default_matmul_mxfp4_w_layout(mx_axis=1)
    scale_layout, scale_options = layout.make_default_matmul_mxfp4_w_scale_layout(mx_axis=1, num_warps=8)

    def projection(name: str) -> tuple[Any, Any, torch.Tensor]:
        blocks = weights[f"{name}_blocks"].flatten(-2).transpose(-2, -1)
        scales = weights[f"{name}_scales"].transpose(-2, -1)
        values = convert_layout(wrap_torch_tensor(blocks, dtype=FP4), value_layout, **value_options)
        swizzled = convert_layout(wrap_torch_tensor(scales), scale_layout, **scale_options)
        precision = PrecisionConfig(weight_scale=swizzled, flex_ctx=FlexCtx(rhs_data=InFlexData()))
        return values, precision, weights[f"{name}_bias"].float()

    up, up_precision, up_bias = projection("gate_up_proj")
    down, down_precision, down_bias = projection("down_proj")
    rule = FnSpecs("swiglu", swiglu_fn, ("alpha", "limit")), (shape.glu.alpha, shape.glu.limit), 2

    def run(x_TD: torch.Tensor, ids_TK: torch.Tensor, gates_TK: torch.Tensor) -> torch.Tensor:
        # It routes for itself: logits that give just these experts and weights.
        logits = torch.full((len(x_TD), shape.experts), -1e9, device=x_TD.device)
        logits.scatter_(1, ids_TK, gates_TK.log())
        data, gather, scatter = routing(logits, shape.k)
        activation = FusedActivation(*rule)
        hidden = matmul_ogs(
            x_TD, up, up_bias, data, gather_indx=gather, precision_config=up_precision, fused_activation=activation
        )
        return matmul_ogs(
            hidden, down, down_bias, data, scatter_indx=scatter, precision_config=down_precision, gammas=data.gate_scal
        )

    return run


def vllm_fused_moe(shape: Shape, weights: Weights) -> Experts:
    """vLLM's Triton fused_experts: bfloat16 weights, plain SiLU."""
    if shape.packed or shape.glu.shift:
        raise Absent("run for plain SiLU experts in bfloat16 only")
    try:
        from vllm.model_executor.layers.fused_moe import fused_experts
    except ImportError as error:
        raise Absent(str(error)) from error
    for name in ("gate_up_proj_bias", "down_proj_bias"):
        weights[name].zero_()  # it has none
    up = weights["gate_up_proj"].transpose(1, 2)
    up = torch.cat((up[:, ::2], up[:, 1::2]), 1).contiguous()
    down = weights["down_proj"].transpose(1, 2).contiguous()
    return lambda x_TD, ids_TK, gates_TK: fused_experts(x_TD, up, down, gates_TK, ids_TK.to(torch.int32))


PEERS = {
    "torch grouped_mm": torch_grouped_mm,
    "transformers grouped_mm": transformers_grouped_mm,
    "triton_kernels matmul_ogs": triton_kernels,
    "vllm fused_moe": vllm_fused_moe,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench/peers.py needs a CUDA device, and torch sees none")
    record: dict[str, Any] = facts()
    record["copy_gb_per_s"] = round(copy_rate() / 1e9, 1)
    record["matmul_tflop_per_s"] = round(matmul_rate() / 1e12, 1)
    record["rows"] = []
    print(json.dumps(record), flush=True)
    for name in options.shapes:
        for peer, make in PEERS.items():
            _run(SHAPES[name], peer, make, options.tokens, record["rows"])
            torch.cuda.empty_cache()
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


@torch.inference_mode()
def _run(
    shape: Shape,
    peer: str,
    make: Callable[[Shape, Weights], Experts],
    sizes: list[int],
    rows: list[dict[str, Any]],
) -> None:
    try:
        bench = Bench(shape, layers=1)
        layers = [make(shape, bench.weights)]
        error = agreement(bench, layers[0])
        if not error < TOLERANCE:
            raise RuntimeError(f"its result differs from ours by {error:.1e}")
        layers += [make(shape, random_checkpoint(shape)) for _ in range(3)]
    except Absent as reason:
        print(f"{shape.name}: {peer}: absent ({reason})", flush=True)
        return
    except Exception as failure:  # other people's code may fail in any way, and the others are still to be asked
        print(f"{shape.name}: {peer}: failed ({type(failure).__name__}: {failure})", flush=True)
        return
    for tokens in sizes:
        calls = []
        for layer in layers:
            x_TD = torch.randn(tokens, shape.hidden, device="cuda", dtype=torch.bfloat16)
            calls.append(_call(layer, x_TD, *bench.layers[0].router(x_TD)))
        try:
            took, how = microseconds(calls), "graph"
        except RuntimeError:
            torch.cuda.synchronize()
            took, how = eager_microseconds(calls), "no graph"
        rows.append({"peer": peer, "shape": shape.name, "tokens": tokens, "us": round(took, 1), "how": how})
        print(f"{shape.name:<21} {peer:<26} {tokens:>6} {took:>9.1f} us  {how}", flush=True)


def agreement(bench: Bench, experts: Experts, tokens: int = 33) -> float:
    """Relative difference of a peer's layer to ours, on the weights of layer 0."""
    layer = bench.layers[0]
    x_TD = torch.randn(tokens, bench.shape.hidden, device=layer.router.weight.device, dtype=torch.bfloat16)
    got, want = experts(x_TD, *layer.router(x_TD)).float(), layer(x_TD).float()
    return float((got - want).norm() / want.norm())


def _call(experts: Experts, *arguments: torch.Tensor) -> Callable[[], object]:
    return lambda: experts(*arguments)


if __name__ == "__main__":
    sys.exit(main())
