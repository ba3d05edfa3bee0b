"""The kernels that training differentiates, values and gradients, against autograd through their twins."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yardmaster.kernels.glu import Glu
from yardmaster.kernels.reference import attention as plain_attention
from yardmaster.kernels.reference import experts as plain_experts
from yardmaster.kernels.reference import norm as plain_norm
from yardmaster.kernels.training import attention, experts, norm


def _both(mine, twin, tensors):
    """Values and gradients of both, for the same random gradient of the result."""
    found, weight = [], None
    for function in (mine, twin):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = function(*leaves)
        out = torch.cat([each.flatten() for each in out]) if isinstance(out, tuple) else out.flatten()
        weight = torch.randn_like(out) if weight is None else weight
        found.append([out.detach(), *torch.autograd.grad(out, leaves, weight, allow_unused=True)])
    return list(zip(*found, strict=True))


def _close(pairs, tolerance):
    for mine, twin in pairs:
        if twin is None or mine is None:  # takes no part, which a gradient of 0 says as well
            assert not any(each is not None and each.any() for each in (mine, twin))
            continue
        assert (mine - twin).abs().max() <= tolerance * (1 + twin.abs().max()) if twin.numel() else mine.numel() == 0


@settings(max_examples=30)
@given(rows=st.integers(1, 40), width=st.integers(1, 70), slots=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_norm(rows, width, slots, seed):
    torch.manual_seed(seed)
    x = torch.randn(rows, width, dtype=torch.float64) * 3
    weight = torch.randn(width, dtype=torch.float64)
    if slots:
        y, gates = torch.randn(rows, slots, width, dtype=torch.float64), torch.rand(rows, slots, dtype=torch.float64)
        pairs = _both(
            lambda *a: norm.add_norm(*a, 1e-5), lambda *a: plain_norm.add_norm(*a, 1e-5), [x, y, gates, weight]
        )
    else:
        pairs = _both(lambda *a: norm.rms_norm(*a, 1e-5), lambda *a: plain_norm.rms_norm(*a, 1e-5), [x, weight])
    _close(pairs, 1e-5)  # the twin rounds to float32 inside


@settings(max_examples=30)
@given(
    tokens=st.integers(0, 200),
    count=st.integers(1, 9),
    k=st.integers(1, 4),
    limit=st.sampled_from([0.5, 7.0]),
    seed=st.integers(0, 2**31),
)
def test_experts(tokens, count, k, limit, seed):
    torch.manual_seed(seed)
    k, hidden, width, glu = min(k, count), 12, 10, Glu(limit, 1.702, 1.0)
    keys = (
        torch.stack([torch.randperm(count)[:k] for _ in range(tokens)])
        if tokens
        else torch.zeros(0, k, dtype=torch.int64)
    )
    shapes = (tokens, hidden), (count, 2 * width, hidden), (count, 2 * width), (count, hidden, width), (count, hidden)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    pairs = _both(
        lambda x, *w: experts.moe_experts(x, keys, *w, glu),
        lambda x, *w: plain_experts.moe_experts(x, keys, *w, glu),
        tensors,
    )
    _close(pairs, 1e-10)


@pytest.mark.parametrize("window", [None, 1, 7, 40, 70])
@pytest.mark.parametrize("sinks", [True, False])
@settings(max_examples=8)
@given(
    chunks=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 150)), min_size=0, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_attention(window, sinks, chunks, seed):
    torch.manual_seed(seed)
    heads, kv_heads, width, size = 6, 2, 8, 4
    starts, counts = torch.tensor([c[0] for c in chunks]), torch.tensor([c[1] for c in chunks])
    offsets = (
        torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
        if chunks
        else torch.zeros(1, dtype=torch.int64)
    )
    rows, columns = int(offsets[-1]), 9
    pages = torch.randperm(columns * max(1, len(chunks)))[: columns * len(chunks)].view(len(chunks), columns)
    first = torch.zeros(len(chunks), dtype=torch.int64)
    if window is not None:  # pages before the window have been given back
        first = (starts - window + 1).clamp(min=0) // size * size
    shapes = (rows, heads, width), (rows, kv_heads, width), (rows, kv_heads, width)
    caches = [torch.randn(columns * max(1, len(chunks)), size, kv_heads, width) for _ in range(2)]
    tensors = [*(torch.randn(shape) for shape in shapes), *caches, torch.randn(heads)]

    def run(module):
        def call(q, k, v, k_cache, v_cache, sink):
            options = sink if sinks else None, window, 0.3
            return module.prefill_attention(q, k, v, k_cache, v_cache, pages, first, offsets, starts.long(), *options)

        return call

    if not rows:
        assert run(attention)(*tensors).shape == (0, heads, width)
        return
    _close(_both(run(attention), run(plain_attention), tensors), 2e-5)


def test_attention_does_not_look_at_what_was_never_written():
    q, k, v = torch.randn(5, 2, 8), torch.randn(5, 1, 8), torch.randn(5, 1, 8)
    caches = [torch.full((3, 4, 1, 8), float("nan")) for _ in range(2)]
    for cache in caches:
        cache[1, :2] = torch.randn(2, 1, 8)
    pages, zero = torch.tensor([[1, 2], [1, 0]]), torch.zeros(2, dtype=torch.int64)
    arguments = pages, zero, torch.tensor([0, 2, 5]), torch.tensor([2, 1]), None, None, 0.4
    found = attention.prefill_attention(q, k, v, *caches, *arguments)
    assert torch.allclose(found, plain_attention.prefill_attention(q, k, v, *caches, *arguments), atol=1e-5)
