"""What the store promises: whole transactions, results exactly once, nothing of anybody else's, bounds."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from yardmaster.server.batch.config import DAY, BatchConfig
from yardmaster.server.batch.lines import Line, LineError
from yardmaster.server.batch.records import new_file_id
from yardmaster.server.batch.results import CANCELLED, Result, Tokens, answered, not_run
from yardmaster.server.batch.store import NotFound, Refused, Store
from yardmaster.tests.server.batch_orders import order, upload

NOW = 1_800_000_000


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Any:
    store = Store(BatchConfig(str(tmp_path / "deep" / "er"), max_file_bytes=1000, max_files=5), clock)
    yield store
    store.close()


def again(store: Store, clock: Clock) -> Store:
    """The next process, after the one of `store` was killed: nothing of it is closed or flushed."""
    return Store(store.config, clock)


def result(line: int, ok: bool = True) -> Result:
    return Result(line, ok, f'{{"line": {line}}}\n'.encode(), Tokens(3, 1, 5, 2) if ok else Tokens())


def lines(store: Store, identity: str) -> list[int]:
    path = store.shelf.path(identity)
    return [json.loads(row)["line"] for row in path.read_bytes().splitlines()] if path.exists() else []


def test_files_belong_to_their_owners(store: Store) -> None:
    mine, other = upload(store, b"abc"), upload(store, b"defg", owner="you")
    assert store.file("me", mine.id) == mine
    assert store.shelf.path(mine.id).read_bytes() == b"abc"
    for verb in (store.file, store.delete_file):
        for identity in (other.id, "file-" + "0" * 32, "", "../../etc/passwd", "' OR 1=1 --"):
            with pytest.raises(NotFound):
                verb("me", identity)
    assert store.files("me", None, 10, True, None) == ([mine], False)
    assert store.files("me", "batch_output", 10, True, None) == ([], False)
    store.delete_file("me", mine.id)
    assert not store.shelf.path(mine.id).exists()
    with pytest.raises(NotFound):
        store.file("me", mine.id)
    assert store.shelf.path(other.id).read_bytes() == b"defg"


def test_no_text_becomes_a_path(store: Store) -> None:
    for identity in ("../batches.sqlite", "file-" + "0" * 31 + "/", "file-" + "A" * 32, "file-" + "0" * 32 + "\n", ""):
        with pytest.raises(ValueError, match="no file's id"):
            store.shelf.path(identity)


def test_pages(store: Store, clock: Clock) -> None:
    ids = [upload(store).id for _ in range(5)]
    upload_of_another = ids[2]
    page, more = store.files("me", None, 2, True, None)
    assert ([each.id for each in page], more) == (ids[:2:-1], True)
    page, more = store.files("me", None, 9, True, ids[3])
    assert ([each.id for each in page], more) == (ids[2::-1], False)
    page, more = store.files("me", None, 2, False, ids[2])
    assert ([each.id for each in page], more) == (ids[3:], False)
    with pytest.raises(NotFound):
        store.files("you", None, 2, False, upload_of_another)
    batches = [order(store, store.file("me", ids[0])).id for _ in range(3)]
    found, more = store.batches("me", 2, None)
    assert ([each.id for each in found], more) == (batches[:0:-1], True)
    assert [each.id for each in store.batches("me", 2, batches[1])[0]] == batches[:1]
    assert store.batches("you", 2, None) == ([], False)


def test_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.check_room(1000)
    with pytest.raises(Refused, match="100000 bytes"):
        store.check_room(100_001)
    for _ in range(5):
        upload(store)
    with pytest.raises(Refused, match="at most 5 files"):
        upload(store)
    assert len(list((Path(store.config.directory) / "files").iterdir())) == 5
    assert list((Path(store.config.directory) / "uploads").iterdir()) == []
    store.delete_file("me", store.files("me", None, 1, True, None)[0][0].id)
    monkeypatch.setattr(store.shelf, "has_room", lambda size: False)
    with pytest.raises(Refused, match="nearly full"):
        store.check_room(1)


def test_too_many_batches(tmp_path: Path) -> None:
    store = Store(BatchConfig(str(tmp_path), max_active_batches=2))
    file = upload(store)
    first = order(store, file)
    order(store, file)
    with pytest.raises(Refused, match="2 batches"):
        order(store, file)
    store.fail(first.id, [LineError("empty_file", "no")])
    order(store, file)
    store.close()


def test_only_this_user_can_read_it(store: Store) -> None:
    file = upload(store)
    for path in (Path(store.config.directory), store.shelf.path(file.id).parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.shelf.path(file.id).stat().st_mode) == 0o600


def test_what_it_holds_is_this_users_though_others_may_look_in(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir(mode=0o755)
    store = Store(BatchConfig(str(directory)))
    file = upload(store)
    for path in (*directory.glob("batches.sqlite*"), store.shelf.path(file.id)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (directory / "files", directory / "uploads"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    store.close()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--batch-dir"):
        Store(BatchConfig(str(tmp_path / "file")))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "batches.sqlite").write_bytes(b"no database, but long enough to be looked at" * 99)
    with pytest.raises(ValueError, match="--batch-dir"):
        Store(BatchConfig(str(tmp_path / "b")))
    store = Store(BatchConfig(str(tmp_path / "c")))
    store._db.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(ValueError, match="another version"):
        Store(BatchConfig(str(tmp_path / "c")))
    with pytest.raises(ValueError, match="--batch-dir"):
        BatchConfig(" ")
    with pytest.raises(ValueError, match="--max-batch-file-bytes"):
        BatchConfig("x", max_file_bytes=0)


def test_a_batch_through_its_states(store: Store, clock: Clock) -> None:
    batch = order(store, upload(store))
    store.begin(batch.id, 3)
    clock.now += 5
    store.record(batch.id, [result(1), result(2, ok=False)])
    store.record(batch.id, [result(3)])
    body = store.again(batch.id).body
    assert body["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert (body["output_file_id"], body["error_file_id"]) == (None, None)  # not before they are whole
    store.finalize(batch.id)
    clock.now += 5
    store.finish(batch.id, "completed", "finalizing")
    body = store.batch("me", batch.id).body
    assert (body["status"], body["in_progress_at"], body["finalizing_at"], body["completed_at"]) == (
        "completed", NOW, NOW + 5, NOW + 10,
    )  # fmt: skip
    assert (body["output_file_id"], body["error_file_id"]) == (batch.output_file_id, batch.error_file_id)
    assert body["usage"] == {
        "input_tokens": 6, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 16,
    }  # fmt: skip
    assert lines(store, batch.output_file_id) == [1, 3]
    assert lines(store, batch.error_file_id) == [2]
    output = store.file("me", batch.output_file_id)
    assert output.purpose == "batch_output"
    assert output.bytes == store.shelf.path(output.id).stat().st_size
    assert store.done(batch.id) == set()
    # Over is over.
    store.finish(batch.id, "expired", "finalizing")
    store.fail(batch.id, [])
    assert store.batch("me", batch.id).status == "completed"
    with pytest.raises(Refused, match="completed"):
        store.cancel("me", batch.id)


def test_a_line_has_one_result(store: Store) -> None:
    batch = order(store, upload(store))
    store.begin(batch.id, 3)
    store.record(batch.id, [result(1)])
    with pytest.raises(sqlite3.IntegrityError):
        store.record(batch.id, [result(2), result(1)])
    assert store.done(batch.id) == {1}
    store.record(batch.id, [result(3)])
    assert lines(store, batch.output_file_id) == [1, 3]
    assert store.again(batch.id).completed == 2


def test_two_processes_at_once_do_not_overwrite_each_other(store: Store, clock: Clock) -> None:
    """As when one takes over while the one before is still at its last results."""
    batch = order(store, upload(store))
    store.begin(batch.id, 200)
    stores = [again(store, clock), again(store, clock)]

    def record(number: int) -> None:
        for line in range(number, 200, 2):
            stores[number].record(batch.id, [result(line, ok=line % 3 > 0)])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(record, (0, 1)))
    assert sorted(lines(store, batch.output_file_id)) == [line for line in range(200) if line % 3]
    assert sorted(lines(store, batch.error_file_id)) == [line for line in range(200) if not line % 3]
    for each in stores:
        each.close()


def test_what_was_half_written_is_cut_off(store: Store, clock: Clock) -> None:
    """Killed between the append and the transaction; and again while finishing."""
    batch = order(store, upload(store))
    store.begin(batch.id, 3)
    store.record(batch.id, [result(1)])
    for name in (batch.output_file_id, batch.error_file_id):
        with store.shelf.path(name).open("ab") as file:
            file.write(b'{"line": 2}\n{"li')
    second = again(store, clock)
    assert second.done(batch.id) == {1}
    second.record(batch.id, [result(2), result(3)])
    assert lines(second, batch.output_file_id) == [1, 2, 3]
    with second.shelf.path(batch.output_file_id).open("ab") as file:
        file.write(b'{"line"')
    third = again(second, clock)
    third.finalize(batch.id)
    third.finish(batch.id, "completed", "finalizing")
    assert lines(third, batch.output_file_id) == [1, 2, 3]
    assert third.batch("me", batch.id).body["error_file_id"] is None
    assert not third.shelf.path(batch.error_file_id).exists()  # it held no result
    second.close()
    third.close()


def test_cancelling(store: Store, clock: Clock) -> None:
    batch = order(store, upload(store))
    with pytest.raises(NotFound):
        store.cancel("you", batch.id)
    assert store.cancel("me", batch.id).status == "cancelling"
    clock.now += 9
    assert store.cancel("me", batch.id).cancelling_at == NOW
    store.begin(batch.id, 3)  # comes too late, as do these
    store.finalize(batch.id)
    assert store.again(batch.id).status == "cancelling"
    line = Line(4, "x", "/v1/completions", b"{}")
    store.record(batch.id, [not_run(line, CANCELLED)])
    store.finish(batch.id, "cancelled", "cancelling")
    body = store.batch("me", batch.id).body
    assert (body["status"], body["cancelled_at"]) == ("cancelled", NOW + 9)
    assert body["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    row = json.loads(store.shelf.path(batch.error_file_id).read_bytes())
    assert (row["custom_id"], row["response"], row["error"]["code"]) == ("x", None, "batch_cancelled")


def test_what_is_cancelled_comes_before_what_waits(store: Store) -> None:
    file = upload(store)
    first, second, third = (order(store, file) for _ in range(3))
    store.cancel("me", third.id)
    assert [each.id for each in store.active(2)] == [third.id, first.id]
    assert [each.id for each in store.active(9)] == [third.id, first.id, second.id]


def test_every_owner_s_oldest_come_before_anybody_s_second(store: Store) -> None:
    mine, yours = upload(store), upload(store, owner="you")
    first, second, third = (order(store, mine) for _ in range(3))
    fourth, fifth = (order(store, yours, "you") for _ in range(2))
    expected = [first, fourth, second, fifth, third]
    for limit in (2, 3, 9):
        assert [each.id for each in store.active(limit)] == [each.id for each in expected[:limit]]
    store.cancel("you", fifth.id)
    assert [each.id for each in store.active(9)] == [each.id for each in (fifth, first, second, fourth, third)]


def test_an_input_in_use_stays(store: Store, clock: Clock) -> None:
    file = upload(store, keep=3600)
    with pytest.raises(NotFound):
        order(store, file, owner="you")
    batch = order(store, file)
    with pytest.raises(Refused, match=batch.id):
        store.delete_file("me", file.id)
    clock.now += 4000
    store.tidy()
    assert store.shelf.path(file.id).exists()
    store.fail(batch.id, [LineError("invalid_url", "no", 3, "url")])
    errors = store.batch("me", batch.id).body["errors"]
    assert errors["data"] == [{"code": "invalid_url", "message": "line 3: url: no", "param": "url", "line": 3}]
    store.tidy()
    assert not store.shelf.path(file.id).exists()


def test_tidying(store: Store, clock: Clock) -> None:
    clock.now = time.time()
    kept, running = upload(store, keep=99 * DAY), order(store, upload(store))
    store.begin(running.id, 2)
    store.record(running.id, [result(1)])
    over = order(store, kept)
    store.fail(over.id, [])
    folder = Path(store.config.directory)
    orphans = [store.shelf.path(new_file_id()), folder / "uploads" / "tmp1", store.shelf.path(new_file_id())]
    for path in orphans:
        path.write_bytes(b"x")
    for path in (*orphans[:2], store.shelf.path(running.output_file_id), store.shelf.path(kept.id)):
        os.utime(path, (0, 0))
    store.tidy()
    assert [path.exists() for path in orphans] == [False, False, True]  # the last may still be on its way
    assert store.shelf.path(running.output_file_id).exists()
    assert store.shelf.path(kept.id).exists()
    assert store.batch("me", over.id)
    clock.now += 91 * DAY
    store.tidy()
    with pytest.raises(NotFound):
        store.batch("me", over.id)
    assert store.batch("me", running.id)
    assert store.file("me", kept.id)


def test_the_lines_of_output_files() -> None:
    line = Line(1, "ü", "/v1/completions", b"{}")
    usage = {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9, "prompt_tokens_details": None}
    body = json.dumps({"id": "cmpl-1", "usage": usage}).encode()
    good, bad = answered(line, 200, "r1", body), answered(line, 400, "r2", b'{"error": {"message": "no"}}')
    assert (good.ok, good.tokens) == (True, Tokens(2, 0, 7, 0))
    row = json.loads(good.text)
    assert row.pop("id").startswith("batch_req_")
    assert row == {
        "custom_id": "ü",
        "response": {"status_code": 200, "request_id": "r1", "body": json.loads(body)},
        "error": None,
    }
    assert bad.ok is False
    assert json.loads(bad.text)["response"]["status_code"] == 400
    assert good.text.count(b"\n") == bad.text.count(b"\n") == 1
