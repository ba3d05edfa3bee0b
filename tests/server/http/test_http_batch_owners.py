"""Whose batches and files they are, and that they outlive their server and a full disk."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from yardmaster.server.fair.keyring import Keyring
from yardmaster.tests.server.http.batch_server import (
    CHAT,
    TEXT,
    echo,
    jsonl,
    line,
    order,
    rows,
    sdk,
    until,
)

KEYS = ("sk-mine-0123456789", "sk-yours-0123456789")


def test_switched_off_says_so(plain: Any, live: Any) -> None:
    url = live(plain.app(), plain.config)
    for method, path in (
        ("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/files/x/content"), ("DELETE", "/v1/files/x"),
        ("GET", "/v1/batches"), ("POST", "/v1/batches"), ("POST", "/v1/batches/x/cancel"),
    ):  # fmt: skip
        answer = httpx.request(method, url + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "batches_disabled")
        assert "--batch-dir" in answer.json()["error"]["message"]


def test_each_key_has_its_own(serve: Any, plain: Any) -> None:
    plain.engine.script = echo(plain)
    served = serve(KEYS)
    mine, yours = (sdk(served, key) for key in KEYS)
    done = until(mine, order(mine, line("a")), "completed")
    for steal in (
        lambda: yours.files.content(done.output_file_id),
        lambda: yours.files.retrieve(done.input_file_id),
        lambda: yours.files.delete(done.input_file_id),
        lambda: yours.batches.retrieve(done.id),
        lambda: yours.batches.cancel(done.id),
        lambda: yours.batches.create(input_file_id=done.input_file_id, endpoint=CHAT, completion_window="24h"),
        lambda: yours.files.list(after=done.input_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            steal()
    assert yours.files.list().data == yours.batches.list().data == []
    with pytest.raises(openai.AuthenticationError):
        sdk(served, "wrong").files.list()
    for file in (Path(served.config.batch.directory)).glob("batches.sqlite*"):
        assert KEYS[0].encode() not in file.read_bytes()


KEYS_FILE = """
keys:
  - {name: alice, key: alices-key-1}
  - {name: bob, key: bobs-key-1, tokens_per_minute: 1}
"""


def test_a_named_keys_files_stay_its_own_when_the_key_changes(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(KEYS_FILE)
    served = serve(keyring=Keyring(path))
    alice, bob = sdk(served, "alices-key-1"), sdk(served, "bobs-key-1")
    file = alice.files.create(file=jsonl(line("a")), purpose="batch")
    assert bob.files.list().data == []
    path.write_text(KEYS_FILE.replace("alices-key-1", "alices-key-2").replace("bobs-key-1", "alices-key-1"))
    asyncio.run(served.keyring.reload())
    assert [each.id for each in sdk(served, "alices-key-2").files.list()] == [file.id]
    assert alice.files.list().data == []


def test_a_stop_and_a_start_lose_nothing(serve: Any, plain: Any) -> None:
    """Signals at random moments; every line is answered, once, and the next server goes on with the same batch."""
    plain.engine.script = echo(plain, 0.01)
    names = [f"n{number}" for number in range(60)]
    served = serve(max_running=4)
    batch = order(sdk(served), *(line(name, TEXT) for name in names), endpoint=TEXT)
    draw = random.Random(5)
    for _ in range(4):
        time.sleep(draw.uniform(0.02, 0.08))
        served.stop()
        served = serve(max_running=4)
    done = until(sdk(served), batch, "completed")
    assert done.request_counts.model_dump() == {"total": 60, "completed": 60, "failed": 0}
    output = rows(sdk(served), done.output_file_id)
    assert {name: row["response"]["body"]["choices"][0]["text"] for name, row in output.items()} == {
        n: n for n in names
    }


def test_two_servers_on_one_directory_run_each_line_once(serve: Any, plain: Any) -> None:
    plain.engine.script = echo(plain, 0.01)
    first, second = serve(max_running=4), serve(max_running=4)
    client = sdk(second)
    names = {f"n{number}" for number in range(60)}
    done = until(client, order(client, *(line(name, TEXT) for name in names), endpoint=TEXT), "completed")
    assert set(rows(client, done.output_file_id)) == names
    assert len(plain.engine.submitted) == len(names)
    assert sdk(first).batches.retrieve(done.id) == done
    first.stop()  # its place is taken
    until(client, order(client, line("a", TEXT), endpoint=TEXT), "completed")


def test_a_full_disk_is_waited_for(serve: Any, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.engine.script = echo(plain)
    served = serve()
    client = sdk(served)
    append, refused = served.store.shelf.append, []

    def full(*arguments: Any) -> int:
        if len(refused) < 3:
            refused.append(arguments)
            raise OSError(28, "No space left on device")
        return append(*arguments)

    monkeypatch.setattr(served.store.shelf, "append", full)
    done = until(client, order(client, line("a", TEXT), line("b", TEXT), endpoint=TEXT), "completed")
    assert len(refused) == 3
    assert set(rows(client, done.output_file_id)) == {"a", "b"}
