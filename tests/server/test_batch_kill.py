"""kill -9 at any moment: nothing is lost, nothing is done twice. With real processes and their real deaths."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from yardmaster.server.batch.config import BatchConfig
from yardmaster.server.batch.records import Batch, StoredFile, new_batch_id, new_file_id
from yardmaster.server.batch.store import Store
from yardmaster.tests.free_port import free_port

HERE = Path(__file__).parent
SLOW_TOKEN = 7
TEXT = "/v1/completions"


class Process:
    """One of the scripts beside this file. `say` waits for a word of its output."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._reader = threading.Thread(target=lambda: self.lines.extend(self._process.stdout or ()), daemon=True)
        self._reader.start()

    def says(self, word: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not any(word in line for line in self.lines):
            assert time.monotonic() < end, self.lines
            assert self._process.poll() is None or self._reader.is_alive(), self.lines
            time.sleep(0.002)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self, seconds: float = 60) -> int:
        code = self._process.wait(seconds)
        self._reader.join()
        return code


def kill_until_done(start: Callable[[int], Process], ready: str, moments: Iterator[float]) -> int:
    """Start it again and again, and kill it a moment after it said `ready`, until it has ended by itself."""
    for number, moment in enumerate(moments):
        process = start(number)
        process.says(ready)
        try:
            code = process.end(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            continue
        assert code == 0, process.lines
        return number
    raise AssertionError("killed every time")


def test_the_store_at_many_moments(tmp_path: Path) -> None:
    store = Store(BatchConfig(str(tmp_path)))
    now = int(time.time())
    file = StoredFile(
        id=new_file_id(), owner="", filename="f", purpose="batch", bytes=2, created_at=now, expires_at=now + 999
    )
    with store.shelf.upload() as (sink, path):
        sink.write(b"{}")
        sink.flush()
        store.add_file(file, path)
    batch = Batch(
        id=new_batch_id(), owner="", endpoint=TEXT, input_file_id=file.id, output_file_id=new_file_id(),
        error_file_id=new_file_id(), created_at=now, expires_at=now + 999, keep_output=999,
    )  # fmt: skip
    store.add_batch(batch)
    total = 3000
    store.begin(batch.id, total)
    draw = random.Random(11)

    def start(number: int) -> Process:
        return Process("batch_recorder.py", tmp_path, number)

    kills = kill_until_done(start, "go", (draw.uniform(0.001, 0.06) if n < 9 else 60.0 for n in range(10)))
    assert kills >= 4, "too fast to be killed"
    done = store.batch("", batch.id)
    assert done.status == "completed"
    found = {}
    for identity, ok in ((batch.output_file_id, True), (batch.error_file_id, False)):
        for row in store.shelf.path(identity).read_bytes().splitlines():
            number, _, fill = row.partition(b":")
            assert fill == b"x" * len(fill)
            assert int(number) not in found
            found[int(number)] = ok
        assert store.file("", identity).bytes == store.shelf.path(identity).stat().st_size
    assert found == {n: n % 3 > 0 for n in range(1, total + 1)}
    assert (done.completed, done.failed) == (sum(found.values()), total - sum(found.values()))
    assert done.input_tokens == sum(range(1, total + 1))
    store.close()


def lines(count: int) -> list[dict[str, Any]]:
    """Every third is refused; the answer to each of the others is its own, and takes a while."""
    return [
        {
            "custom_id": f"id{n}",
            "method": "POST",
            "url": TEXT,
            "body": {"prompt": [SLOW_TOKEN, n % 90 + 1, n // 90 + 1], "max_tokens": 2, "ignore_eos": True, "echo": True}
            | ({"temperature": -1} if n % 3 == 0 else {}),
        }
        for n in range(count)
    ]


def serve_and_kill(model: Path, directory: Path, count: int, moments: list[float]) -> None:
    def start() -> tuple[Process, openai.OpenAI]:
        port = free_port()
        process = Process("batch_serve.py", model, port, directory)
        process.says("ready: ")
        return process, openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", timeout=20)

    asked = lines(count)
    server, client = start()
    try:
        file = client.files.create(file="\n".join(map(json.dumps, asked)).encode(), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=TEXT, completion_window="24h")
        seen = 0
        for moment in moments:
            time.sleep(moment)
            server.kill()
            server, client = start()
            counts = client.batches.retrieve(batch.id).request_counts
            assert counts.completed + counts.failed >= seen
            seen = counts.completed + counts.failed
            assert client.files.content(file.id).text.count("\n") == count - 1
        assert seen < count, "all was done before the last kill"
        end = time.monotonic() + 60
        while (done := client.batches.retrieve(batch.id)).status != "completed":
            assert time.monotonic() < end, done
            time.sleep(0.1)
        rows = {
            kind: [json.loads(row) for row in client.files.content(identity).text.splitlines()]
            for kind, identity in (("ok", done.output_file_id), ("bad", done.error_file_id))
        }
        live = httpx.post(f"{client.base_url}completions", json=asked[-1]["body"], timeout=20).json()
    finally:
        server.kill()
    wanted = {"ok": [n for n in range(count) if n % 3], "bad": [n for n in range(count) if n % 3 == 0]}
    assert {kind: sorted(int(row["custom_id"][2:]) for row in found) for kind, found in rows.items()} == wanted
    assert (done.request_counts.completed, done.request_counts.failed) == (len(wanted["ok"]), len(wanted["bad"]))
    answers = {row["custom_id"]: row["response"]["body"]["choices"][0]["text"] for row in rows["ok"]}
    assert len(set(answers.values())) == len(answers)  # the prompts are in them
    assert answers[f"id{count - 1}"] == live["choices"][0]["text"]
    assert done.usage.output_tokens == 2 * len(answers)


def test_a_server_killed(model: Path, tmp_path: Path) -> None:
    serve_and_kill(model, tmp_path, 60, [0.3])


@pytest.mark.slow
def test_a_server_killed_many_times(model: Path, tmp_path: Path) -> None:
    draw = random.Random(3)
    serve_and_kill(model, tmp_path, 200, [draw.uniform(0, 0.4) for _ in range(8)])


@pytest.mark.slow
def test_the_offline_command_killed_and_given_again(model: Path, tmp_path: Path) -> None:
    count = 60
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked = lines(count)
    for row in asked:
        row["body"]["max_tokens"] = 1 + int(row["custom_id"][2:]) % 7  # they end one after another
    source.write_text("\n".join(map(json.dumps, asked)))

    def start(number: int) -> Process:
        assert not output.exists()
        return Process("batch_offline.py", model, source, output)

    kills = kill_until_done(start, "kept", iter((0.12, 0.0, 60.0)))
    assert kills == 2
    rows = [json.loads(row) for row in output.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [row["custom_id"] for row in asked]
    assert [row["response"]["status_code"] for row in rows] == [400 if n % 3 == 0 else 200 for n in range(count)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
