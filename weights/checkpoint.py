"""A checkpoint directory: which file holds which tensor. Opens headers only; load.py reads the data. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .errors import CheckpointError
from .safetensors_file import NOT_PICKLE, SafetensorsFile, TensorInfo
from .strict_json import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MOST_SHARDS = 2048


class Checkpoint:
    """The tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists.

    Raises CheckpointError from the constructor for everything that is wrong before a tensor's bytes are read: no
    weights, pickles, a shard outside the directory, a tensor twice, missing from its shard or in no index.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._where: dict[str, SafetensorsFile] = {}
        self._files: list[SafetensorsFile] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for file in self._files for info in file.tensors.values())

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def file_of(self, name: str) -> SafetensorsFile:
        """The open file that holds tensor `name`. Raises CheckpointError when none does."""
        if name not in self._where:
            raise CheckpointError(
                self.directory, "is missing", tensor=name, mend="fetch the checkpoint again, or check its config.json"
            )
        return self._where[name]

    def info(self, name: str) -> TensorInfo:
        return self.file_of(name).tensors[name]

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        try:
            present = {entry.name for entry in self.directory.iterdir()}
        except OSError as e:
            raise CheckpointError(
                self.directory, e.strerror or "cannot be listed", mend="name a directory that holds a checkpoint"
            ) from None
        if INDEX in present and SINGLE in present:
            fact = f"{SINGLE} and {INDEX} are both there, and only one can be meant"
            raise CheckpointError(self.directory, fact, mend="delete the stale one")
        if INDEX in present:
            self._open_shards(self._read_index())
        elif SINGLE in present:
            self._open_shards(dict.fromkeys(self._add(SINGLE).tensors, SINGLE))
        else:
            raise self._no_weights(present)

    def _no_weights(self, present: set[str]) -> CheckpointError:
        shards = sorted(name for name in present if name.endswith(".safetensors"))
        if shards:
            return CheckpointError(self.directory, f"{shards[0]} is there without {INDEX}", mend="fetch the index too")
        pickles = sorted(name for name in present if name.endswith((*PICKLES, ".bin.index.json")))
        if pickles:
            return CheckpointError(self.directory / pickles[0], "is a pickle", mend=NOT_PICKLE)
        return CheckpointError(
            self.directory,
            f"holds neither {SINGLE} nor {INDEX}",
            mend="name a checkpoint directory, or make one: `yardmaster init`, `yardmaster download`",
        )

    def _read_index(self) -> dict[str, str]:
        path = self.directory / INDEX
        weight_map = read_json(path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(path, "weight_map is not a table of tensor to file", mend="fetch the index again")
        for name, file in weight_map.items():
            if not isinstance(file, str):
                raise CheckpointError(path, "its file is not a string", tensor=name, mend="fetch the index again")
            if file.endswith(PICKLES):
                raise CheckpointError(path, f"lies in the pickle {file}", tensor=name, mend=NOT_PICKLE)
            if Path(file).name != file or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
                fact = f"its file {file!r} is not the plain name of a safetensors file"
                raise CheckpointError(path, fact, tensor=name, mend="shards must lie beside the index")
        if len(set(weight_map.values())) > MOST_SHARDS:
            raise CheckpointError(path, f"lists more than {MOST_SHARDS} shards", mend="merge the shards")
        return weight_map

    def _open_shards(self, weight_map: dict[str, str]) -> None:
        files = {file.path.name: file for file in self._files}
        for name in dict.fromkeys(weight_map.values()):
            file = files.get(name) or self._add(name)
            for tensor in file.tensors:
                if tensor in self._where:
                    fact = f"is also in {self._where[tensor].path.name}"
                    raise CheckpointError(file.path, fact, tensor=tensor, mend="one of the shards is stale: delete it")
                if weight_map.get(tensor) != name:
                    fact = f"is in the shard, but {INDEX} does not say so"
                    raise CheckpointError(file.path, fact, tensor=tensor, mend="fetch the index and the shards again")
                self._where[tensor] = file
        for tensor, name in weight_map.items():
            if tensor not in self._where:
                fact = f"is missing, though {INDEX} puts it here"
                raise CheckpointError(self.directory / name, fact, tensor=tensor, mend="fetch the shard again")

    def _add(self, name: str) -> SafetensorsFile:
        file = SafetensorsFile(self.directory / name)
        self._files.append(file)
        return file
