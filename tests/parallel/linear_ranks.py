"""Run by test_linear.py as every rank of one tensor-parallel group: shards, loaded through their slots, against whole.

Row by row they are also held against a rank of its own, Group([0]), which must be the plain layer.
"""

from __future__ import annotations

import os

import torch

from yardmaster.parallel.collectives import Group
from yardmaster.parallel.embedding import VocabEmbedding, VocabHead
from yardmaster.parallel.heads import split_heads
from yardmaster.parallel.layout import ParallelConfig
from yardmaster.parallel.linear import ColumnLinear, Part, RowLinear
from yardmaster.parallel.mesh import Mesh
from yardmaster.weights.slot import Slot

F64 = torch.float64
CPU = torch.device("cpu")


def load(slots: list[Slot], tensors: dict[str, torch.Tensor]) -> None:
    """What the loader does: chunks of three rows, narrowed, valid only during the call. Every tensor is asked for."""
    assert sorted(slot.name for slot in slots) == sorted(tensors)
    for slot in slots:
        tensor = tensors[slot.name]
        assert slot.shape == tuple(tensor.shape)
        for take, dim in zip(slot.take, range(tensor.dim()), strict=False):
            tensor = tensor.narrow(dim, take.start, len(take))
        for start in range(0, len(tensor), 3):
            chunk = tensor[start : start + 3].clone()
            slot.put(start, chunk)
            chunk.fill_(torch.nan)


def attention(tp: Group, heads: int, kv_heads: int, hidden: int = 10, width: int = 3) -> None:
    """q, k, v by heads, each query head times its key head (any function of the two would do), then o."""
    g = torch.Generator().manual_seed(heads)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=F64)  # noqa: E731
    tensors = {f"q.{kind}": random(*shape) for kind, shape in _shapes(heads * width, hidden)}
    tensors |= {f"k.{kind}": random(*shape) for kind, shape in _shapes(kv_heads * width, hidden)}
    out = {f"o.{kind}": random(*shape) for kind, shape in _shapes(hidden, heads * width)}

    def rows(of: range) -> range:
        return range(of.start * width, of.stop * width)

    q, kv = split_heads(heads, kv_heads, tp.size, tp.index)
    assert len(q)
    assert len(kv)
    parts = [Part("q", heads * width, rows(q)), Part("k", kv_heads * width, rows(kv))]
    column = ColumnLinear(hidden, parts, bias=True, dtype=F64, device=CPU)
    row = RowLinear("o", heads * width, rows(q), hidden, tp, bias=True, dtype=F64, device=CPU)
    for layer in (column, row):
        for parameter in layer.parameters():
            parameter.fill_(torch.nan)
    load(column.slots(""), tensors)
    load(row.slots(""), out)

    for count in (0, 1, 5):
        x = random(count, hidden)
        q_THd, k_Thd = (y.unflatten(-1, (-1, width)) for y in column.split(column(x)))
        meet = q_THd * k_Thd.repeat_interleave(len(q) // len(kv), dim=1)
        y = row(meet.flatten(1))
        whole_q = (x @ tensors["q.weight"].T + tensors["q.bias"]).view(count, heads, width)
        whole_k = (x @ tensors["k.weight"].T + tensors["k.bias"]).view(count, kv_heads, width)
        want = (whole_q * whole_k.repeat_interleave(heads // kv_heads, dim=1)).view(count, heads * width)
        torch.testing.assert_close(y, want @ out["o.weight"].T + out["o.bias"], rtol=1e-12, atol=1e-12)


def _shapes(outputs: int, inputs: int) -> list[tuple[str, tuple[int, ...]]]:
    return [("weight", (outputs, inputs)), ("bias", (outputs,))]


def vocabulary(tp: Group, vocab: int, hidden: int = 6) -> None:
    g = torch.Generator().manual_seed(vocab)
    table = torch.randn(vocab, hidden, generator=g, dtype=F64)
    embedding = VocabEmbedding(vocab, hidden, tp, dtype=F64, device=CPU)
    head = VocabHead(vocab, hidden, tp, dtype=F64, device=CPU)
    tied = VocabHead(vocab, hidden, tp, dtype=F64, device=CPU, tied=embedding)
    load(embedding.slots("e."), {"e.weight": table})
    load(head.slots("h."), {"h.weight": table.flip(0)})
    assert tied.slots("h.") == []
    ids = torch.cat((torch.arange(vocab), torch.randint(vocab, (5,), generator=g)))
    assert torch.equal(embedding(ids, F64), table[ids])
    assert torch.equal(embedding(ids, torch.bfloat16), table[ids].to(torch.bfloat16))
    assert embedding(ids[:0], F64).shape == (0, hidden)
    for count in (0, 1, 4):
        x = torch.randn(count, hidden, generator=g, dtype=F64)
        torch.testing.assert_close(head(x), x @ table.flip(0).T, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(tied(x), x @ table.T, rtol=1e-12, atol=1e-12)
        assert head(x).is_contiguous()


def main() -> bool:
    world = int(os.environ["WORLD_SIZE"])
    mesh = Mesh.join(ParallelConfig(world), CPU) if world > 1 else Mesh.single()
    for heads, kv_heads in ((8, 8), (8, 4), (20, 5), (16, 1), (21, 7), (12, 2) if world == 4 else (6, 6)):
        if world <= kv_heads or world % kv_heads == 0:
            attention(mesh.tp, heads, kv_heads)
    for vocab in (1, 3, 17, 64):
        vocabulary(mesh.tp, vocab)
    mesh.close()
    return True
