"""A directory of shards and its index: what is missing, surplus, twice, or points elsewhere is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from yardmaster.tests.weights.open_files import open_files
from yardmaster.weights.checkpoint import Checkpoint
from yardmaster.weights.errors import CheckpointError

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(2), "b": torch.zeros(3)}, tmp_path / ONE)
    save_file({"c": torch.zeros(4)}, tmp_path / TWO)
    index(tmp_path, {"a": ONE, "b": ONE, "c": TWO})
    return tmp_path


def index(directory: Path, weight_map: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def refused(directory: Path, words: str) -> str:
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint(directory)
    assert str(caught.value).isprintable()
    assert not open_files(directory)
    return str(caught.value)


def test_shards(sharded: Path) -> None:
    with Checkpoint(sharded) as checkpoint:
        assert set(checkpoint) == {"a", "b", "c"}
        assert checkpoint.total_bytes == 9 * 4
        assert checkpoint.info("c").shape == (4,)
        assert checkpoint.file_of("a").path.name == ONE
        with pytest.raises(CheckpointError, match="tensor d: is missing"):
            checkpoint.info("d")


def test_single_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"left alone")
    with Checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint) == ["a"]


def test_shards_may_be_links_to_files(sharded: Path) -> None:
    blobs = sharded.parent / "blobs"
    blobs.mkdir()
    (sharded / ONE).rename(blobs / "abc")
    (sharded / ONE).symlink_to("../blobs/abc")
    Checkpoint(sharded).close()


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/environ", "."])
def test_shards_may_not_be_links_to_else(sharded: Path, target: str) -> None:
    (sharded / ONE).unlink()
    (sharded / ONE).symlink_to(target)
    refused(sharded, ONE)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "/tmp/x.safetensors",
        "sub/x.safetensors",
        "..",
        "",
        ".",
        "x\\y.safetensors",
        "x\0.safetensors",
        "weights.txt",
        "./x.safetensors",
    ],
)
def test_shards_lie_beside_the_index(sharded: Path, name: str) -> None:
    index(sharded, {"a": name})
    refused(sharded, "tensor a: its file .* not the plain name")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "x.pth", "x.ckpt", "x.pkl"])
def test_pickles_in_the_index(sharded: Path, name: str) -> None:
    (sharded / name).write_bytes(b"x")
    index(sharded, {"a": name})
    refused(sharded, "pickle")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "pytorch_model.bin.index.json"])
def test_pickles_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert name in refused(tmp_path, "convert the weights to safetensors")


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {"a": 3}, {"a": None}, {"a": ["x.safetensors"]}])
def test_strange_indices(sharded: Path, weight_map: Any) -> None:
    index(sharded, weight_map)
    refused(sharded, "index")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": {"a": "x", "a": "y"}}', "\xff", "[" * 100_000])
def test_indices_that_are_not_json(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    refused(sharded, "index")


def test_too_many_shards(sharded: Path) -> None:
    index(sharded, {f"t{i}": f"{i}.safetensors" for i in range(5000)})
    refused(sharded, "2048")


def test_missing_shard(sharded: Path) -> None:
    (sharded / TWO).unlink()
    assert TWO in refused(sharded, "does not exist; complete the checkpoint")


def test_tensor_not_in_its_shard(sharded: Path) -> None:
    index(sharded, {"a": ONE, "b": ONE, "c": TWO, "d": TWO})
    refused(sharded, f"{TWO}: tensor d: is missing")


def test_tensor_in_no_index(sharded: Path) -> None:
    index(sharded, {"a": ONE, "c": TWO})
    refused(sharded, f"{ONE}: tensor b: is in the shard")


def test_tensor_twice(sharded: Path) -> None:
    save_file({"a": torch.ones(2), "c": torch.zeros(4)}, sharded / TWO)
    refused(sharded, f"{TWO}: tensor a: is also in {ONE}")


def test_index_and_single_file(sharded: Path) -> None:
    save_file({"a": torch.zeros(2)}, sharded / "model.safetensors")
    refused(sharded, "delete the stale one")


def test_shards_without_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    refused(sharded, "fetch the index too")


def test_no_directory(tmp_path: Path) -> None:
    refused(tmp_path, "holds neither")
    refused(tmp_path / "none", "No such file")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "Not a directory")
