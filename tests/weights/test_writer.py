"""What the writer writes, the safetensors library and our own reader read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from yardmaster.weights.checkpoint import Checkpoint
from yardmaster.weights.errors import CheckpointError
from yardmaster.weights.writer import TensorSpec, write_checkpoint

TENSORS = {
    "odd": torch.randint(0, 256, (3, 7), dtype=torch.uint8),
    "x": torch.randn(13, 5).to(torch.bfloat16),
    "y": torch.randn(4),
    "z": torch.randint(0, 256, (1,), dtype=torch.uint8),
    "none": torch.empty(0, 3),
    "w": torch.randn(2, 3, 4).to(torch.float16),
}
STORED = {torch.uint8: "U8", torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16"}
SPECS = [TensorSpec(name, STORED[tensor.dtype], tuple(tensor.shape)) for name, tensor in TENSORS.items()]


def chunks(spec: TensorSpec) -> Iterator[torch.Tensor]:
    yield from TENSORS[spec.name].split(2)


@pytest.mark.parametrize("limit", [1, 60, 100, 10_000])
def test_round_trip(tmp_path: Path, limit: int) -> None:
    marks: list[tuple[int, int]] = []
    write_checkpoint(
        tmp_path / "m", SPECS, chunks, max_shard_bytes=limit, progress=lambda done, total: marks.append((done, total))
    )
    files = sorted((tmp_path / "m").iterdir())
    shards = [file for file in files if file.suffix == ".safetensors"]
    assert (len(shards) == 1) == (limit == 10_000)
    assert len(files) == len(shards) + (len(shards) > 1)
    got = {}
    for shard in shards:
        with safe_open(shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            got |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert got.keys() == TENSORS.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in TENSORS.items())
    with Checkpoint(tmp_path / "m") as checkpoint:
        assert set(checkpoint) == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert checkpoint.info(name).start % tensor.dtype.itemsize == 0
    assert marks[-1] == (sum(t.nbytes for t in TENSORS.values()),) * 2
    if len(shards) > 1:
        index = json.loads((tmp_path / "m/model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == marks[-1][1]


def test_existing_weights_are_not_overwritten(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SPECS, chunks)
    with pytest.raises(CheckpointError, match="is there already"):
        write_checkpoint(tmp_path, SPECS, chunks)


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    def broken(spec: TensorSpec) -> Iterator[torch.Tensor]:
        yield TENSORS[spec.name]
        if spec.name == "w":
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_checkpoint(tmp_path, SPECS, broken)
    assert list(tmp_path.iterdir()) == []


def test_what_was_announced_must_come(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="were announced"):
        write_checkpoint(tmp_path, [TensorSpec("x", "F32", (5,))], lambda spec: [torch.zeros(4)])
    with pytest.raises(ValueError, match="float32"):
        write_checkpoint(tmp_path, [TensorSpec("x", "BF16", (4,))], lambda spec: [torch.zeros(4)])


def test_a_full_disk_is_noticed_first(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="GB are free"):
        write_checkpoint(tmp_path, [TensorSpec("x", "F32", (1 << 50,))], lambda spec: iter(()))
