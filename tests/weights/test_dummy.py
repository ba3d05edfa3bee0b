"""Dummy weights: the same logical tensor for every layout of ranks, and of a sensible size."""

from __future__ import annotations

import random

import pytest
import torch

from yardmaster.weights.dummy import fill
from yardmaster.weights.noise import PERIOD, Noise, spread
from yardmaster.weights.slot import PACKED, Slot, into

SHAPES = {
    "model.embed_tokens.weight": (50, 12),
    "model.layers.0.self_attn.o_proj.weight": (12, 21),
    "model.layers.0.self_attn.sinks": (7,),
    "model.layers.0.mlp.experts.gate_up_proj": (5, 12, 14),
    "model.layers.0.mlp.experts.down_proj_blocks": (5, 7, 2, 16),
    "model.layers.0.mlp.experts.down_proj_scales": (5, 7, 2),
    "scalar": (),
}


def filled(seed: int, takes: dict[str, tuple[range, ...]], chunk_bytes: int = 1 << 20) -> dict[str, torch.Tensor]:
    targets, slots = {}, []
    for name, shape in SHAPES.items():
        take = takes.get(name, ())
        sizes = [len(taken) for taken in take] + list(shape[len(take) :])
        packed = name.endswith(("_blocks", "_scales"))
        targets[name] = torch.full(sizes or (1,), 77, dtype=torch.uint8 if packed else torch.float32)
        slots.append(Slot(name, shape, into(targets[name]), take, *([PACKED] if packed else [])))
    fill(slots, seed, chunk_bytes=chunk_bytes)
    return targets


@pytest.mark.parametrize("seed", range(12))
def test_every_layout_gets_the_same_weights(seed: int) -> None:
    rng = random.Random(seed)
    whole = filled(seed, {})
    takes = {}
    for name, shape in SHAPES.items():
        starts = [rng.randrange(size) for size in shape[: rng.randint(0, len(shape))]]
        takes[name] = tuple(range(a, rng.randint(a + 1, size)) for a, size in zip(starts, shape, strict=False))
    for name, part in filled(seed, takes, chunk_bytes=rng.choice([1, 100, 1 << 20])).items():
        assert torch.equal(part, whole[name][tuple(slice(t.start, t.stop) for t in takes[name])]), name


def test_seeds_names_and_rows_differ() -> None:
    one, two = filled(1, {}), filled(2, {})
    again = filled(1, {})
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, two[name])
        if tensor.dim() == 2:
            assert len({tuple(row.tolist()) for row in tensor}) == len(tensor)


def test_rows_longer_than_the_table() -> None:
    noise = Noise(0)
    x = noise.rows("m.weight", (2, 2 * PERIOD + 5), range(1, 2), torch.float32)
    assert x.shape == (1, 2 * PERIOD + 5)
    assert abs(x.std().item() * (2 * PERIOD + 5) ** 0.5 - 1) < 0.02
    u = noise.rows("m_blocks", (2, PERIOD + 3), range(2), torch.uint8)
    assert u.shape == (2, PERIOD + 3)
    assert u.float().std() > 70


@pytest.mark.parametrize("groups", [1, 4, 90])
def test_packed_weights_keep_the_size_of_what_they_multiply(groups: int) -> None:
    from yardmaster.kernels.reference.mxfp4 import unpack

    noise = Noise(3)
    blocks = noise.rows("w_blocks", (4, 300, groups, 16), range(4), torch.uint8)
    scales = noise.rows("w_scales", (4, 300, groups), range(4), torch.uint8)
    assert scales.unique().numel() == 3
    if groups == 90:  # gpt-oss's own width
        assert 118 <= scales.min() <= scales.max() <= 122
    deviation = unpack(blocks, scales, torch.float32).std().item() * (32 * groups) ** 0.5
    assert 0.6 < deviation < 2


def test_spreads() -> None:
    assert spread("model.norm.weight", (8,))[0] == 1.0
    assert spread("a.q_proj.weight", (5, 16)) == (0.0, 0.25)
    assert spread("a.experts.down_proj", (5, 16, 3)) == (0.0, 0.25)
    assert spread("a.router.bias", (4,)) == (0.0, 0.1)


def test_progress_and_result() -> None:
    marks: list[tuple[int, int]] = []
    slot = Slot("x.weight", (10, 4), lambda *_: None, (range(3, 9),))
    made = fill([slot], progress=lambda done, total: marks.append((done, total)), chunk_bytes=16)
    assert made == 6 * 8 == marks[-1][0] == marks[-1][1]
    with pytest.raises(ValueError, match="does not lie"):
        fill([Slot("x", (2,), lambda *_: None, (range(5),))])
