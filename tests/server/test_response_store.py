"""The store of responses: whose they are, how much of them is kept, and what becomes of conversations."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from yardmaster.server.responses.store import LEASE, NotFound, NotUsable, ResponseStore, StoreConfig, store_path


class Clock:
    now = 1e9

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


def make(path: Path | str = ":memory:", clock: Clock | None = None, **bounds: Any) -> ResponseStore:
    return ResponseStore(StoreConfig(str(path), **bounds), clock or Clock())


def item(name: str, text: str = "x") -> dict[str, Any]:
    return {"id": name, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def put(
    store: ResponseStore, name: str, owner: str = "a", previous: str | None = None, **fields: Any
) -> dict[str, Any]:
    output = fields.pop("output", [item(f"out_{name}")])
    resource = {"id": name, "previous_response_id": previous, "status": "completed", "output": output, **fields}
    store.add(owner, resource, [item(f"in_{name}", fields.get("text", "x"))])
    return resource


def kept(store: ResponseStore, names: list[str], owner: str = "a") -> list[str]:
    found = []
    for name in names:
        try:
            store.get(owner, name)
            found.append(name)
        except NotFound:
            pass
    return found


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in items]


def test_rows_are_their_owners_alone() -> None:
    store = make()
    resource = put(store, "r", text="half \udcff of a pair")
    assert store.get("a", "r") == resource
    assert ids(store.given("a", "r")) == ["in_r"]
    for verb in (store.get, store.given, store.delete, store.cancel, store.chain):
        with pytest.raises(NotFound):
            verb("b", "r")
    assert store.items("b", ["in_r"]) == {}
    assert not store.finish("b", resource)
    put(store, "s", "b", previous="r")  # as if by a mistake elsewhere
    with pytest.raises(NotUsable):
        store.chain("b", "s")
    assert list(store.items("a", ["in_r", "out_r", "nothing"])) == ["in_r", "out_r"]


def test_a_conversation_is_read_back_in_order() -> None:
    store = make()
    previous = None
    for name in "abcde":
        put(store, name, previous=previous)
        previous = name
    put(store, "x", previous="b")  # another branch
    assert ids(store.chain("a", "e")) == [f"{kind}_{name}" for name in "abcde" for kind in ("in", "out")]
    assert ids(store.chain("a", "x")) == [f"{kind}_{name}" for name in "abx" for kind in ("in", "out")]
    store.delete("a", "c")
    assert ids(store.chain("a", "x")) == [*ids(store.chain("a", "b")), "in_x", "out_x"]
    for name in "de":
        with pytest.raises(NotUsable) as refused:
            store.chain("a", name)
        assert refused.value.code == "previous_response_not_found"
    with pytest.raises(NotFound):
        store.chain("a", "c")
    assert store.items("a", ["in_c", "out_c"]) == {}


def test_long_and_circular_conversations_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = make(path, max_chain=10)
    previous = None
    for number in range(11):
        put(store, str(number), previous=previous)
        previous = str(number)
    assert len(store.chain("a", "9")) == 20
    with pytest.raises(NotUsable) as refused:
        store.chain("a", "10")
    assert refused.value.code == "conversation_too_long"
    with sqlite3.connect(path) as other:
        other.execute("UPDATE responses SET previous = '3' WHERE id = '0'")
    with pytest.raises(NotUsable):
        store.chain("a", "3")
    heavy = make(max_chain_bytes=10_000)
    put(heavy, "1", text="x" * 3000)
    put(heavy, "2", text="x" * 3000, previous="1")
    assert len(heavy.chain("a", "1")) == 2
    with pytest.raises(NotUsable):
        heavy.chain("a", "2")
    with pytest.raises(NotUsable):
        heavy.items("a", ["in_1", "in_2"])


def test_a_conversation_of_many_items_is_refused() -> None:
    store = make(max_chain_items=20)
    many = [item(f"{place}") for place in range(3)]
    for name, previous in (("a", None), ("b", "a"), ("c", "b")):
        put(store, name, previous=previous, output=many)  # of four items, with a part each
    assert len(store.chain("a", "b")) == 8
    with pytest.raises(NotUsable, match="over 20 items") as refused:
        store.chain("a", "c")
    assert refused.value.code == "conversation_too_long"
    parts = {"id": "x", "type": "message", "role": "user", "content": [{"type": "input_text", "text": ""}] * 20}
    put(store, "d", output=[parts])
    with pytest.raises(NotUsable):
        store.chain("a", "d")


def test_what_is_not_used_goes_first() -> None:
    store = make(max_responses=5)
    for name in "abcde":
        put(store, name)
    store.chain("a", "a")  # used again
    put(store, "f")
    assert kept(store, list("abcdef")) == list("acdef")
    put(store, "g", previous="a")
    assert kept(store, list("abcdefg")) == list("adefg")
    assert store.items("a", ["in_b", "in_c"]) == {}


def test_a_flood_of_one_owner_is_its_own_loss() -> None:
    limits: list[dict[str, Any]] = [{"max_responses": 40}, {"max_bytes": 60_000}]
    for bounds in limits:
        store = make(**bounds)
        for number in range(5):
            put(store, f"a{number}", "a")
        for number in range(200):
            put(store, f"b{number}", "b", text="x" * 500)
        assert len(kept(store, [f"a{number}" for number in range(5)], "a")) == 5
        left = kept(store, [f"b{number}" for number in range(200)], "b")
        assert 10 < len(left) < 40
        assert left == [f"b{number}" for number in range(200 - len(left), 200)]


def test_bytes_are_bounded_whatever_comes(tmp_path: Path) -> None:
    path, draw = tmp_path / "r.sqlite", random.Random(3)
    store = make(path, max_bytes=200_000)
    for number in range(400):
        put(store, str(number), draw.choice("abc"), text="x" * draw.randrange(8000))
        with sqlite3.connect(path) as other:
            texts = other.execute("SELECT sum(length(input) + length(resource)), sum(size) FROM responses").fetchone()
        assert texts[0] <= texts[1] < 200_000 + 17_000
    store.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 8 << 20


def test_old_responses_are_gone_and_then_removed() -> None:
    clock = Clock()
    store = make(clock=clock, keep=100.0)
    put(store, "a")
    clock.now += 101
    with pytest.raises(NotFound):
        store.get("a", "a")
    put(store, "b")
    clock.now -= 101
    assert kept(store, ["a", "b"]) == ["b"]


def test_background_rows_end_once() -> None:
    store = make()
    resource = put(store, "r", status="queued", output=[])
    with pytest.raises(NotUsable) as refused:
        store.chain("a", "r")
    assert refused.value.code == "response_not_ready"
    done = resource | {"status": "completed", "output": [item("late")]}
    assert store.finish("a", done)
    assert store.get("a", "r") == done
    assert list(store.items("a", ["late"])) == ["late"]
    assert not store.finish("a", done | {"status": "failed"})
    assert store.cancel("a", "r") == done
    put(store, "s", status="in_progress")
    assert store.cancel("a", "s")["status"] == "cancelled"
    assert not store.finish("a", resource | {"id": "s", "status": "completed"})
    put(store, "t", status="queued")
    store.delete("a", "t")
    assert not store.finish("a", resource | {"id": "t", "status": "completed"})
    assert kept(store, ["t"]) == []


def test_a_run_whose_process_is_gone_has_failed(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "r.sqlite"
    dead, living = make(path, clock), make(path, clock)
    put(dead, "lost", status="in_progress")
    put(living, "held", status="queued")
    put(living, "cancelled", status="queued")
    for _ in range(4):
        clock.now += LEASE / 3
        dead.cancel("a", "cancelled")
        assert living.renew(["held", "cancelled", "nothing"]) == {"held"}
    assert living.get("a", "held")["status"] == "queued"
    found = living.get("a", "lost")
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert ids(living.chain("a", "lost")) == ["in_lost", "out_lost"]


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "r.sqlite"
    store = make(path)
    put(store, "r")
    store.close()
    again = make(path)
    assert ids(again.chain("a", "r")) == ["in_r", "out_r"]
    assert (path.stat().st_mode | path.parent.stat().st_mode) & 0o077 == 0


def test_files_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("no database, and long enough to be told from an empty one" * 40)
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("PRAGMA user_version = 77")
    for path in (tmp_path / "text", tmp_path / "other", tmp_path, tmp_path / "text" / "r.sqlite"):
        with pytest.raises(ValueError, match="--response-store"):
            make(path)
    for bounds in ({"path": " "}, {"max_responses": 0}, {"keep": 0}):
        with pytest.raises(ValueError, match="response"):
            StoreConfig(**bounds)  # type: ignore[arg-type]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert store_path(None) == str(tmp_path / "state" / "yardmaster" / "responses.sqlite")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "text"))
    assert store_path(None) == ":memory:"
    assert store_path("off") == "off"
    with pytest.raises(ValueError, match="--response-store"):
        store_path(str(tmp_path))
