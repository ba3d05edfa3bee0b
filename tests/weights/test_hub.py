"""Fetching from a hub: against one of localhost that speaks the few routes huggingface_hub asks."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from yardmaster.weights.errors import CheckpointError
from yardmaster.weights.hub import cached, download, resolve

SHA = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves `files` as repository "owner/model". `break_after`: a GET of a file stops after that many bytes, once."""

    def __init__(self, files: dict[str, bytes], *, sizes: dict[str, int] | None = None, status: int = 200) -> None:
        self.files = files
        self.sizes = sizes or {}
        self.status = status
        self.error: str | None = None
        self.got: list[tuple[str, str | None]] = []
        self.break_after: dict[str, int] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub._answer(self, head=True)

            def do_GET(self) -> None:
                hub._answer(self, head=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, head: bool) -> None:
        path = request.path.partition("?")[0]
        if self.status != 200:
            self._send(request, b"{}", self.status, {"X-Error-Code": self.error} if self.error else {}, head)
        elif path.startswith("/api/models/owner/model/tree/"):
            self._json(request, [self._entry(name) for name in self.files], head)
        elif path.startswith("/api/models/owner/model"):
            siblings = [{"rfilename": n, "size": self._size(n), "blobId": self._etag(n)} for n in self.files]
            self._json(request, {"id": "owner/model", "sha": SHA, "siblings": siblings}, head)
        elif "/resolve/" in path and (name := path.split("/resolve/")[1].partition("/")[2]) in self.files:
            self._file(request, name, head)
        else:
            self._send(request, b"{}", 404, {"X-Error-Code": "RepoNotFound"}, head)

    def _file(self, request: BaseHTTPRequestHandler, name: str, head: bool) -> None:
        data, span = self.files[name], request.headers.get("Range")
        headers = {"ETag": f'"{self._etag(name)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        status = 200
        if not head:
            self.got.append((name, span))
        if span and not head:
            first = int(span.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data, status = data[first:], 206
        cut = None if head else self.break_after.pop(name, None)
        self._send(request, data, status, headers, head, cut)

    def _entry(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": self._size(name), "oid": self._etag(name)}

    def _size(self, name: str) -> int:
        return self.sizes.get(name, len(self.files[name]))

    def _etag(self, name: str) -> str:
        return hashlib.sha1(self.files[name], usedforsecurity=False).hexdigest()

    def _json(self, request: BaseHTTPRequestHandler, value: object, head: bool) -> None:
        self._send(request, json.dumps(value).encode(), 200, {"Content-Type": "application/json"}, head)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        data: bytes,
        status: int,
        headers: dict[str, str | None],
        head: bool,
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, str(value))
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if not head:
            request.wfile.write(data[:cut])
        request.close_connection = True


FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "chat_template.jinja": b"hi",
    "model.safetensors": b"w" * 1000,
    "original/model.safetensors": b"again",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"import os",
}
SERVED = {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"}
NOWHERE = "http://127.0.0.1:9"


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["./no", "/no/such", "a/b/c", "no", "~/no", "owner/", "../x"])
def test_a_name_that_is_neither(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no directory"):
        resolve(name, cache_dir=tmp_path, endpoint=NOWHERE)


@pytest.mark.parametrize("name", ["own er/model", "owner/mo\ndel", "-a/b--c"])
def test_a_name_that_is_no_repository(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no repository name") as caught:
        resolve(name, cache_dir=tmp_path, endpoint=NOWHERE)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        resolve(str(tmp_path / "x"))


def test_only_what_serving_needs_is_fetched_and_once(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        path = resolve("owner/model", cache_dir=tmp_path, endpoint=hub.url)
        assert {file.name for file in path.iterdir()} == SERVED
        assert {name for name, _ in hub.got} == SERVED
        hub.got.clear()
        download("owner/model", cache_dir=tmp_path, endpoint=hub.url)
        assert hub.got == []
    # The hub is gone: the snapshot is complete, so nobody asks for it.
    assert resolve("owner/model", cache_dir=tmp_path, endpoint=NOWHERE) == path
    assert resolve("owner/model", cache_dir=tmp_path, local_only=True) == path
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_local_dir(tmp_path: Path) -> None:
    with FakeHub(FILES) as hub:
        path = download("owner/model", local_dir=tmp_path / "here", cache_dir=tmp_path / "cache", endpoint=hub.url)
    assert {file.name for file in path.iterdir() if file.is_file()} == SERVED


def test_a_snapshot_with_a_missing_shard_is_completed(tmp_path: Path) -> None:
    shard = "model-00002-of-00002.safetensors"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard}}
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00002.safetensors": b"1" * 50,
        shard: b"2" * 50,
    }
    with FakeHub(files) as hub:
        path = resolve("owner/model", cache_dir=tmp_path, endpoint=hub.url)
        (path / shard).unlink()
        assert cached("owner/model", cache_dir=tmp_path) is None
        with pytest.raises(CheckpointError, match="not wholly"):
            resolve("owner/model", cache_dir=tmp_path, local_only=True)
        assert (resolve("owner/model", cache_dir=tmp_path, endpoint=hub.url) / shard).read_bytes() == files[shard]


def test_a_broken_transfer_is_resumed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 100_000
    with FakeHub({"config.json": b"{}", "model.safetensors": data}) as hub:
        hub.break_after["model.safetensors"] = 21_000_000  # huggingface_hub keeps what came in pieces of 10 MB
        path = download("owner/model", cache_dir=tmp_path, endpoint=hub.url)
        spans = [span for name, span in hub.got if name == "model.safetensors"]
    assert (path / "model.safetensors").read_bytes() == data
    assert len(spans) == 2
    assert spans[0] is None
    assert spans[1] is not None


def test_pickle_only_is_refused_before_fetching(tmp_path: Path) -> None:
    with FakeHub({"config.json": b"{}", "pytorch_model.bin": b"x"}) as hub:
        with pytest.raises(CheckpointError, match="pickle"):
            resolve("owner/model", cache_dir=tmp_path, endpoint=hub.url)
        assert hub.got == []


def test_no_weights_at_all(tmp_path: Path) -> None:
    with FakeHub({"README.md": b""}) as hub, pytest.raises(CheckpointError, match="no safetensors"):
        resolve("owner/model", cache_dir=tmp_path, endpoint=hub.url)


def test_a_full_disk_is_noticed_before_fetching(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with FakeHub(FILES, sizes={"model.safetensors": 2 * free}) as hub:
        with pytest.raises(CheckpointError, match="GB are free; free space"):
            resolve("owner/model", cache_dir=tmp_path / "cache", endpoint=hub.url)
        assert hub.got == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "is not on the hub"),
        (401, "RepoNotFound", "is not on the hub"),
        (404, "RevisionNotFound", "has no revision"),
        (403, "GatedRepo", "is gated"),
        (500, None, "the hub answered 500"),
    ],
)
def test_the_hub_refuses(tmp_path: Path, status: int, code: str | None, words: str) -> None:
    with FakeHub(FILES, status=status) as hub:
        hub.error = code
        with pytest.raises(CheckpointError, match=words) as caught:
            resolve("owner/model", revision="v9", cache_dir=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value)


def test_offline(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be reached"):
        resolve("owner/model", cache_dir=tmp_path, endpoint=NOWHERE)
