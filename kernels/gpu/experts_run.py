"""Both products of a mixture-of-experts layer, whatever the weights' format: launches, and what lies between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton

from ..glu import Glu
from .experts_plan import FEW_PAIRS, Choice, Layer, Plan, Tile, choose, rounded
from .group import group
from .grouped_gemm import grouped_gemm

INTERPRETER_PROCESSORS = 4  # programs that share the work where there is no device to ask


@dataclass(frozen=True, slots=True)
class Matrices:
    """One product's weights of all experts: `outs` x `inner` each, in `format` (dense, mxfp4, fp8)."""

    format: str
    weights: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    experts: int
    outs: int
    inner: int


def run(
    x_MD: torch.Tensor,
    keys: torch.Tensor,
    token_R: torch.Tensor | None,
    up: Matrices,
    down: Matrices,
    glu: Glu,
    plan: Choice | None = None,
) -> torch.Tensor:
    """See `reference.experts.moe_experts` for keys, token_R and the result. No synchronisation with the host.

    Raises ValueError for a plan that does not group more pairs than can be found without.
    """
    pairs, slots = keys.numel(), keys.shape[-1] if token_R is None else 1
    out = torch.empty((*keys.shape, down.outs), dtype=x_MD.dtype, device=x_MD.device)
    if not pairs or not down.outs:
        return out
    if not isinstance(plan, Plan):
        layer = Layer(up.format, up.experts, up.inner, down.inner)
        plan = plan(layer, pairs) if plan else choose(layer, pairs, processors(x_MD.device))
    if plan.few and pairs > FEW_PAIRS:
        raise ValueError(f"{pairs} pairs, and a plan that does not group them; at most {FEW_PAIRS} are found without")
    keys_R = keys.flatten().contiguous()  # of a view flatten may give a view
    token_R = None if token_R is None else token_R.contiguous()
    order_R, counts_e = (keys_R, keys_R) if plan.few else group(keys_R, up.experts)
    hidden = torch.empty((pairs, down.inner), dtype=x_MD.dtype, device=x_MD.device)
    arrivals = _arrivals(plan, pairs, down, x_MD.device)
    work = keys_R, order_R, counts_e, arrivals, plan.few
    _product(x_MD.contiguous(), up, hidden, token_R, slots, glu, plan.up, work, clears=plan.down.split > 1)
    _product(hidden, down, out, None, 1, None, plan.down, work, clears=False)
    return out


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type != "cuda":
        return INTERPRETER_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _product(
    x: torch.Tensor,
    matrices: Matrices,
    out: torch.Tensor,
    token_R: torch.Tensor | None,
    slots: int,
    glu: Glu | None,
    tile: Tile,
    work: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, bool],
    clears: bool,
) -> None:
    keys_R, order_R, counts_e, arrivals, few = work
    pairs, experts, outs, inner = len(keys_R), matrices.experts, matrices.outs, matrices.inner
    split = tile.split if few else 1
    partials = arrivals
    if split > 1:
        partials = torch.empty((split, pairs, outs), dtype=torch.float32, device=x.device)
    by_expert = _by_expert(pairs, experts)
    tiles_n = triton.cdiv(outs, tile.block_n)
    # A program that fills a multiprocessor goes on to a further tile by itself; of smaller ones the device starts the
    # next while others still run.
    persistent = tile.warps >= 8
    grid: tuple[int, ...]
    if few:
        grid = (tiles_n, experts if by_expert else pairs, split)
    else:
        most = tiles_n * (min(pairs, experts) + pairs // tile.block_m)
        grid = (min(most, processors(x.device)) if persistent else most,)
    grouped_gemm[grid](
        x,
        matrices.weights,
        matrices.scales,
        matrices.bias,
        out,
        partials,
        arrivals,
        len(arrivals),
        keys_R,
        order_R,
        counts_e,
        token_R,
        pairs,
        slots,
        experts,
        outs,
        inner,
        glu.limit if glu else 0.0,
        glu.alpha if glu else 0.0,
        glu.shift if glu else 0.0,
        FORMAT=matrices.format,
        GATED=glu is not None,
        HAS_BIAS=matrices.bias is not None,
        HAS_TOKEN=token_R is not None,
        FEW=few,
        BY_EXPERT=by_expert,
        PERSISTENT=persistent,
        CLEARS=clears,
        WORDS=triton.next_power_of_2(triton.cdiv(pairs, 64)) if few else 1,
        EXPERTS_BLOCK=triton.next_power_of_2(experts),
        BLOCK_N=tile.block_n,
        BLOCK_M=tile.block_m,
        LAST_M=0 if few else tile.last_m,
        BLOCK_K=tile.block_k,
        SPLIT=split,
        STAGES=tile.stages,
        EVEN=inner % tile.block_k == 0,
        WIDE=not isinstance(grouped_gemm, triton.JITFunction),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def _arrivals(plan: Plan, pairs: int, down: Matrices, device: torch.device) -> torch.Tensor:
    """A counter an output tile of the second product, which the first one sets to zero."""
    tiles = -(-down.outs // plan.down.block_n) * -(-pairs // plan.down.block_m)
    owners = down.experts if _by_expert(pairs, down.experts) else pairs
    split = plan.few and plan.down.split > 1
    return torch.empty(owners * tiles if split else 0, dtype=torch.int32, device=device)


def _by_expert(pairs: int, experts: int) -> bool:
    """Whether programs that find few pairs are numbered by expert: alike for all that a plan is made for."""
    return experts <= rounded(pairs)
