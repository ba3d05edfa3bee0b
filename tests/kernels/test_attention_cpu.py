"""The CPU's attention against its twin in float64, on poisoned caches."""

import pytest
import torch

from yardmaster.kernels.cpu import attention as cpu
from yardmaster.kernels.reference import attention as reference


def _cache(pages, page_size, kv_heads, width):
    shape = (pages, page_size, kv_heads, width)
    return torch.full(shape, float("nan")), torch.full(shape, float("nan"))


def _difference(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.mark.parametrize("block_keys", [16, 1 << 16])
@pytest.mark.parametrize(("window", "sinks"), [(None, True), (None, False), (1, True), (5, False), (128, True)])
@pytest.mark.parametrize("shape", [(2, 6, 8), (1, 4, 64), (3, 3, 32)])
def test_decode_agrees_with_reference(window, sinks, shape, block_keys, monkeypatch):
    monkeypatch.setattr(cpu, "_BLOCK_KEYS", block_keys)
    kv_heads, heads, width = shape
    page_size, batch = 4, 5
    contexts = [1, 4, 7, 130, 300]
    k_cache, v_cache = _cache(300, page_size, kv_heads, width)
    free = torch.randperm(300).tolist()
    tables, firsts = [], []
    for context in contexts:
        first = 0 if window is None else max(0, context - window) // page_size
        last = (context - 1) // page_size
        pages = [free.pop() for _ in range(last - first + 1)]
        # a chunk writes only what later windows see: the first page may hold positions that nobody ever wrote
        for position in range(0 if window is None else max(0, context - window), context):
            page = pages[position // page_size - first]
            k_cache[page, position % page_size] = torch.randn(kv_heads, width)
            v_cache[page, position % page_size] = torch.randn(kv_heads, width)
        tables.append(pages)
        firsts.append(first * page_size)
    columns = max(map(len, tables))
    pages_BP = torch.tensor([pages + [free[0]] * (columns - len(pages)) for pages in tables])
    args = (
        pages_BP,
        torch.tensor(firsts),
        torch.tensor(contexts) - 1,
        torch.randn(heads) if sinks else None,
        window,
        width**-0.5,
    )
    q = torch.randn(batch, heads, width)
    got = cpu.decode_attention(q, k_cache, v_cache, *args)
    clean = (k_cache.nan_to_num().double(), v_cache.nan_to_num().double())
    want = reference.decode_attention(q.double(), *clean, *args)
    assert _difference(got, want) < 2e-6


@pytest.mark.parametrize("block_keys", [16, 1 << 16])
@pytest.mark.parametrize(("window", "sinks"), [(None, True), (None, False), (1, True), (7, True), (128, True)])
@pytest.mark.parametrize(("count", "prior"), [(1, 0), (2, 0), (2, 1), (7, 130), (130, 7), (300, 0), (301, 200)])
def test_chunk_agrees_with_reference(window, sinks, count, prior, block_keys, monkeypatch):
    monkeypatch.setattr(cpu, "_BLOCK_KEYS", block_keys)
    kv_heads, heads, width = 2, 6, 16
    k_cache, v_cache = _cache(80, 4, kv_heads, width)
    slots = torch.randperm(320)[:prior]
    k_cache.view(-1, kv_heads, width)[slots] = torch.randn(prior, kv_heads, width)
    v_cache.view(-1, kv_heads, width)[slots] = torch.randn(prior, kv_heads, width)
    if window is not None:
        slots = slots[max(0, prior - (window - 1)) :]
    q, k, v = torch.randn(count, heads, width), torch.randn(count, kv_heads, width), torch.randn(count, kv_heads, width)
    args = (slots, torch.randn(heads) if sinks else None, window, width**-0.5)
    got = cpu.chunk_attention(q, k, v, k_cache, v_cache, *args)
    clean = (k_cache.nan_to_num().double(), v_cache.nan_to_num().double())
    want = _plain(q.double(), k.double(), v.double(), *clean, *args)
    assert _difference(got, want) < 2e-6
    assert _difference(reference.chunk_attention(q.double(), k.double(), v.double(), *clean, *args), want) < 1e-6


def _plain(q, k, v, k_cache, v_cache, slots, sinks, window, scale):
    """Token by token, head by head: an oracle that shares nothing with either."""
    kv_heads, width = k.shape[1:]
    keys = torch.cat((k_cache.view(-1, kv_heads, width)[slots], k))
    values = torch.cat((v_cache.view(-1, kv_heads, width)[slots], v))
    out = torch.empty_like(q)
    for n in range(q.shape[0]):
        high = slots.shape[0] + n + 1
        low = 0 if window is None else max(0, high - window)
        for head in range(q.shape[1]):
            kv = head // (q.shape[1] // kv_heads)
            weights = (keys[low:high, kv] @ q[n, head] * scale).exp()
            total = weights.sum() + (sinks[head].double().exp() if sinks is not None else 0)
            out[n, head] = weights @ values[low:high, kv] / total
    return out
