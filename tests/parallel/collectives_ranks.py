"""Run by test_collectives.py as every rank: each collective against what all ranks' inputs say, drawn on every rank."""

from __future__ import annotations

import warnings

import torch

from yardmaster.parallel.layout import ParallelConfig
from yardmaster.parallel.mesh import Mesh


def main() -> bool:
    warnings.simplefilter("error")
    mesh = Mesh.join(ParallelConfig(1, 3), "cpu", timeout=20)
    group, me = mesh.world, mesh.world.index
    g = torch.Generator().manual_seed(5)

    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        xs = [torch.randint(-40, 40, (5, 3), generator=g).to(dtype) for _ in range(3)]  # sums are exact
        mine = xs[me].clone()
        assert group.all_reduce_(mine) is mine
        assert torch.equal(mine, xs[0] + xs[1] + xs[2])

    for sizes in ([4, 4, 4], [1, 0, 7], [0, 0, 2], [0, 0, 0]):
        xs = [torch.randn(size, 2, 3, generator=g).to(torch.bfloat16) for size in sizes]
        assert torch.equal(group.all_gather(xs[me], sizes), torch.cat(xs))
        assert torch.equal(group.all_gather(xs[me].transpose(1, 2), sizes), torch.cat(xs).transpose(1, 2))

        whole = [torch.randn(sum(sizes), 5, generator=g) for _ in sizes]
        total = (whole[0] + whole[1]) + whole[2]
        assert torch.equal(group.reduce_scatter(whole[me], sizes), total.split(sizes)[me])

    equal = [torch.randn(2, 3, generator=g) for _ in range(3)]
    assert torch.equal(group.all_gather(equal[me]), torch.cat(equal))
    six = [torch.randn(6, generator=g) for _ in range(3)]
    assert torch.equal(group.reduce_scatter(six[me]), (six[0] + six[1] + six[2]).split(2)[me])

    # bfloat16 is summed in float32: 256 + 1 + 1 is 258, but 256 + 1 is 256 in bfloat16.
    ones = torch.tensor([256.0 if me == 0 else 1.0] * 3, dtype=torch.bfloat16)
    assert group.reduce_scatter(ones).tolist() == [258.0]

    for table in ([[0, 1, 2], [3, 0, 0], [0, 5, 1]], [[0, 0, 0]] * 3, [[0, 0, 4]] * 3):
        rows = [torch.randn(sum(row), 3, generator=g) for row in table]
        want = torch.cat([rows[i].split(table[i])[me] for i in range(3)])
        assert torch.equal(group.all_to_all(rows[me], table[me], [row[me] for row in table]), want)

    assert group.all_gather_counts(me, 2**60 + me) == [[i, 2**60 + i] for i in range(3)]
    for data in (b"", b"x", bytes(range(256)) * 5000):
        assert group.broadcast_bytes(data if me == 0 else b"") == data
    mesh.close()
    return True
