"""Experts loaded through their slots, as the loader would, against the whole checkpoint's experts in float64."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from yardmaster.experts.base import ExpertShard
from yardmaster.experts.packed import PackedExperts
from yardmaster.experts.resident import ResidentExperts
from yardmaster.experts.swizzled import SwizzledExperts
from yardmaster.kernels.glu import Glu
from yardmaster.kernels.gpu.tuning import Plans
from yardmaster.kernels.reference.mxfp4 import unpack
from yardmaster.parallel.layout import split
from yardmaster.weights.slot import Slot

E, HIDDEN = 5, 64
GLU = Glu(1.25, 1.702, 1.0)
CPU = torch.device("cpu")
PREFIX = "model.layers.3.mlp.experts."


def load(slots: list[Slot], tensors: dict[str, torch.Tensor], rows: int) -> None:
    """What the loader does, in the slots' order: chunks of `rows`, narrowed, valid only during the call."""
    assert sorted(slot.name for slot in slots) == sorted(tensors)
    for slot in slots:
        tensor = tensors[slot.name]
        assert slot.shape == tuple(tensor.shape), slot.name
        assert ("U8" in slot.dtypes) == (tensor.dtype == torch.uint8)
        for dim, take in enumerate(slot.take):
            tensor = tensor.narrow(dim, take.start, len(take))
        for start in range(0, len(tensor), rows):
            chunk = tensor[start : start + rows].clone()
            slot.put(start, chunk)
            chunk.fill_(7)


def checkpoint(packed: bool, width: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """The file's tensors, and gate_up (E, 2F, D) and down (E, D, F) as they are meant, in float64."""
    biases = {"gate_up_proj_bias": torch.randn(E, 2 * width), "down_proj_bias": torch.randn(E, HIDDEN)}
    tensors = {name: tensor.bfloat16() for name, tensor in biases.items()}
    shapes = {"gate_up_proj": (E, 2 * width, HIDDEN), "down_proj": (E, HIDDEN, width)}
    meant = []
    for name, (e, outs, ins) in shapes.items():
        if packed:
            blocks = torch.randint(256, (e, outs, ins // 32, 16), dtype=torch.uint8)
            scales = torch.randint(121, 126, (e, outs, ins // 32), dtype=torch.uint8)
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
            meant.append(unpack(blocks, scales, torch.float64))
        else:
            tensors[name] = (torch.randn(e, ins, outs) / 8).bfloat16()
            meant.append(tensors[name].double().transpose(1, 2))
    return {PREFIX + name: tensor for name, tensor in tensors.items()}, meant[0], meant[1]


def oracle(
    tensors: dict[str, torch.Tensor], gate_up: torch.Tensor, down: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """Every expert on every token: (T, E, D)."""
    g = torch.einsum("td,egd->teg", x.double(), gate_up) + tensors[PREFIX + "gate_up_proj_bias"].double()
    gate, up = g[..., 0::2].clamp(max=GLU.limit), g[..., 1::2].clamp(-GLU.limit, GLU.limit)
    hidden = (up + 1) * gate * torch.sigmoid(GLU.alpha * gate)
    return torch.einsum("tef,edf->ted", hidden, down) + tensors[PREFIX + "down_proj_bias"].double()


def make(kind: str, shard: ExpertShard, packed: bool) -> ResidentExperts | PackedExperts | SwizzledExperts:
    store: ResidentExperts | PackedExperts | SwizzledExperts
    if kind == "swizzled":
        store = SwizzledExperts(shard, dtype=torch.float32, device=CPU, plans=Plans(4))
    elif kind == "mxfp4":
        store = PackedExperts(shard, dtype=torch.float32, device=CPU)
    else:
        store = ResidentExperts(shard, dtype=getattr(torch, kind), device=CPU, packed_source=packed)
    for tensor in store.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else 255)
    return store


@pytest.mark.parametrize(
    ("kind", "packed", "width"),
    [
        ("float32", False, 96),
        ("float32", False, 70),  # dense widths are cut at multiples of 32, and the last part takes the rest
        ("bfloat16", False, 33),
        ("float32", True, 96),
        ("bfloat16", True, 64),
        ("mxfp4", True, 96),
    ],
)
@pytest.mark.parametrize(("ep", "etp"), [(1, 1), (2, 1), (1, 2), (3, 3), (7, 1), (1, 4)])
def test_the_shards_together_are_the_whole(kind: str, packed: bool, width: int, ep: int, etp: int) -> None:
    tensors, gate_up, down = checkpoint(packed, width)
    x = torch.randn(3, HIDDEN)
    want = oracle(tensors, gate_up, down, x)
    y = torch.zeros(3, E, HIDDEN, dtype=torch.float64)
    for i in range(ep):
        for j in range(etp):
            mine = split(E, ep, i)
            shard = ExpertShard(E, HIDDEN, width, mine, split(width, etp, j, 32), GLU, first=j == 0)
            store = make(kind, shard, packed)
            load(store.slots(PREFIX), tensors, rows=1 + (i + j) % 3)
            keys = torch.stack([torch.randperm(len(mine)) for _ in x])  # every token through every expert that is here
            out = store.run(x, keys)
            assert out.dtype == torch.float32
            y[:, mine.start : mine.stop] += out.gather(1, keys.argsort(1)[..., None].expand_as(out)).double()
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(find_spec("triton") is None, reason="GPU kernels want Triton, also under its interpreter")
@pytest.mark.parametrize(("ep", "etp"), [(1, 1), (3, 2)])
def test_swizzled_shards_together_are_the_whole(ep: int, etp: int) -> None:
    test_the_shards_together_are_the_whole("swizzled", True, 96, ep, etp)


@pytest.mark.parametrize(("hidden", "width", "name"), [(48, 64, "hidden_size"), (64, 33, "intermediate_size")])
def test_mxfp4_needs_whole_blocks(hidden: int, width: int, name: str) -> None:
    shard = ExpertShard(2, hidden, width, range(2), range(width), GLU)
    with pytest.raises(ValueError, match=f"{name} in multiples of 32"):
        PackedExperts(shard, dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match=f"{name} in multiples of 32"):
        ResidentExperts(shard, dtype=torch.float32, device=CPU, packed_source=True)


def test_packed_weights_take_a_quarter_of_bfloat16() -> None:
    shard = ExpertShard(E, HIDDEN, 96, range(E), range(96), GLU)
    dense = ResidentExperts(shard, dtype=torch.bfloat16, device=CPU, packed_source=True)
    packed = PackedExperts(shard, dtype=torch.bfloat16, device=CPU)
    size = lambda store: sum(p.nbytes for name, p in store.named_parameters() if "bias" not in name)  # noqa: E731
    assert size(packed) / size(dense) == (4 + 8 / 32) / 16
