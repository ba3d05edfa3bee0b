"""Every way a safetensors file can be wrong ends in one line; a right one reads as the safetensors library reads it."""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from yardmaster.tests.weights.open_files import open_files
from yardmaster.weights.errors import CheckpointError
from yardmaster.weights.safetensors_file import HEADER_LIMIT, SafetensorsFile


def blob(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2, 3), begin: Any = 0, end: Any = 24) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = blob({"a": entry(), "__metadata__": {"format": "pt"}}, bytes(24))

BAD = {
    "empty": b"",
    "short": b"1234567",
    "only a length": struct.pack("<Q", 8),
    "header past the end": blob(b"{}", length=100),
    "header longer than the limit": blob(b"{}", length=HEADER_LIMIT + 1),
    "header of 2^63": blob(b"{}", length=1 << 63),
    "header of 2^64 - 1": blob(b"{}", length=(1 << 64) - 1),
    "no header": blob(b""),
    "spaces": blob(b"        "),
    "not JSON": blob(b"{'a': 1}"),
    "cut JSON": blob(b'{"a": {"dtype"'),
    "not UTF-8": blob(b'{"\xff": 1}'),
    "UTF-16": blob('{"a": 1}'.encode("utf-16")),
    "a byte order mark": blob(b"\xef\xbb\xbf{}"),
    "a list": blob([1, 2]),
    "a number": blob(b"1"),
    "null": blob(b"null"),
    "nested without end": blob(b'{"a":' + b"[" * 200_000),
    "NaN": blob(b'{"a": NaN}'),
    "a huge integer": blob(b'{"a": ' + b"9" * 10_000 + b"}"),
    "two documents": blob(b"{}{}"),
    "space before": blob(b" {}"),
    "key twice": blob(b'{"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}, "a": {}}', b"x"),
    "field twice": blob(b'{"a": {"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "metadata not a table": blob({"__metadata__": [1]}),
    "metadata not strings": blob({"__metadata__": {"a": 1}}),
    "entry not a table": blob({"a": 3}),
    "entry null": blob({"a": None}),
    "field missing": blob({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
    "field too many": blob({"a": {**entry(), "more": 1}}, bytes(24)),
    "unknown dtype": blob({"a": entry("F7")}, bytes(24)),
    "dtype not a string": blob({"a": entry(["F32"])}, bytes(24)),
    "lower-case dtype": blob({"a": entry("f32")}, bytes(24)),
    "shape not a list": blob({"a": entry(shape=6)}, bytes(24)),
    "shape negative": blob({"a": entry(shape=[-2, -3])}, bytes(24)),
    "shape of floats": blob({"a": entry(shape=[2.0, 3.0])}, bytes(24)),
    "shape of booleans": blob({"a": entry("U8", [True], 0, 1)}, bytes(1)),
    "shape of strings": blob({"a": entry(shape=["2", "3"])}, bytes(24)),
    "shape overflows 64 bits": blob({"a": entry("U8", [1 << 32, 1 << 32], 0, 0)}),
    "too many dimensions": blob({"a": entry("U8", [1] * 9, 0, 1)}, bytes(1)),
    "shape of a million": blob({"a": entry("U8", [1] * 1_000_000, 0, 1)}, bytes(1)),
    "too few bytes for the shape": blob({"a": entry(end=20)}, bytes(20)),
    "too many bytes for the shape": blob({"a": entry(end=28)}, bytes(28)),
    "offsets reversed": blob({"a": entry("U8", [0], 4, 0)}, bytes(4)),
    "offsets negative": blob({"a": entry("U8", [4], -4, 0)}, bytes(4)),
    "offsets not two": blob({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, bytes(2)),
    "offsets of floats": blob({"a": entry("U8", [1], 0.0, 1.0)}, bytes(1)),
    "offsets past the end": blob({"a": entry()}, bytes(23)),
    "offsets huge": blob({"a": entry("U8", [1 << 61], 0, 1 << 61)}),
    "a hole": blob({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, bytes(3)),
    "a hole at the start": blob({"a": entry("U8", [1], 1, 2)}, bytes(2)),
    "an overlap": blob({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3)),
    "one weight, two names": blob({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, bytes(2)),
    "bytes after the last": GOOD + b"\0",
    "one byte cut off": GOOD[:-1],
    "no name": blob({"": entry()}, bytes(24)),
    "a name with a line end": blob({"a\nb": entry()}, bytes(24)),
    "a name with an escape": blob({"a\x1b[2J": entry()}, bytes(24)),
    "a long name": blob({"a" * 5000: entry()}, bytes(24)),
    "pickle": pickle.dumps({"a": list(range(1000))}),
    "zip, as torch.save writes": b"PK\x03\x04" + bytes(100),
    "zeros": bytes(1000),
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert message.isprintable()
    assert path.name in message
    assert "; " in message
    assert len(message) < 2000
    return message


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD[kind])
    refused(path)


def test_pickles_are_called_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    assert "pickle" in refused(path)
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    assert "pickle" in refused(path)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    refused(path)
    path.mkdir()
    assert "regular" in refused(path)
    path.rmdir()
    for target in ("/dev/zero", "/dev/stdin", "/dev/null"):
        path.symlink_to(target)
        assert "regular" in refused(path) or "missing" in refused(path)
        path.unlink()
    path.symlink_to(path)
    refused(path)  # a loop
    path.unlink()
    os.mkfifo(path)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(refused(path)), daemon=True)
    thread.start()
    thread.join(5)
    assert answers, "opening a fifo blocked"
    path.unlink()
    (tmp_path / "blob").write_bytes(GOOD)
    path.symlink_to(tmp_path / "blob")  # as the hub's cache links
    with SafetensorsFile(path) as file:
        assert file.tensors["a"].shape == (2, 3)


def test_unreadable(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    path.chmod(0)
    refused(path)


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "a": torch.randn(7, 5),
        "b": torch.randn(3, 2, 4).to(torch.bfloat16),
        "c": torch.randint(0, 256, (11,), dtype=torch.uint8),
        "none": torch.empty(0, 4),
        "scalar": torch.tensor(3.5),
    }
    save_file(tensors, path)
    with SafetensorsFile(path) as file:
        assert file.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            info = file.tensors[name]
            assert info.shape == tuple(tensor.shape)
            got = torch.full((info.nbytes,), 7, dtype=torch.uint8)
            file.read(info.start, got.numpy().data)
            assert torch.equal(got.view(tensor.dtype).view(tensor.shape), tensor)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD)
    with SafetensorsFile(path) as file:
        os.truncate(path, len(GOOD) - 5)
        with pytest.raises(CheckpointError, match="shorter"):
            file.read(file.tensors["a"].start, memoryview(bytearray(24)))


def test_no_descriptor_leaks(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    for _ in range(20):
        refused(path)
    assert not open_files(tmp_path)
    path.write_bytes(GOOD)
    with SafetensorsFile(path):
        assert open_files(tmp_path) == [str(path)]
    assert not open_files(tmp_path)


FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_raise_nothing_else(tmp_path: Path, data: bytes, framed: bool) -> None:
    attempt(tmp_path, blob(b"{" + data, bytes(16)) if framed else data)


@FUZZ
@given(st.data())
def test_a_changed_header_raises_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    good = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    attempt(tmp_path, bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else bytes(good))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "U8"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@FUZZ
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), JSON, max_size=3))
def test_a_header_of_any_json_raises_nothing_else(tmp_path: Path, header: dict[str, Any]) -> None:
    attempt(tmp_path, blob(header, bytes(24)))


def attempt(tmp_path: Path, data: bytes) -> None:
    """Opens or refuses; and what opens has tensors that lie in the file."""
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(data)
    message = ""
    try:
        with SafetensorsFile(path) as file:
            assert all(info.start + info.nbytes <= len(data) for info in file.tensors.values())
    except CheckpointError as e:
        message = str(e)
    assert message.isprintable()
