"""The database that stores are made on: whole changes, a known format, one thread."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from yardmaster.server.database import MEMORY, Database

SCHEMA = "CREATE TABLE things (name TEXT PRIMARY KEY); CREATE INDEX by_name ON things (name);"


def opened(path: Path | str, version: int = 3, pragmas: Any = (), patience: float = 5.0) -> Database:
    return Database(path, SCHEMA, version, pragmas=pragmas, patience=patience, thread="things")


def names(database: Database) -> list[str]:
    return [row["name"] for row in database.execute("SELECT name FROM things ORDER BY name")]


def test_a_change_is_whole(tmp_path: Path) -> None:
    database, other = opened(tmp_path / "a"), opened(tmp_path / "a")
    with database.transaction():
        database.executemany("INSERT INTO things VALUES (?)", [("a",), ("b",)])
        assert names(other) == []
    assert names(other) == ["a", "b"]
    with pytest.raises(sqlite3.IntegrityError):
        _change(database, "DELETE FROM things WHERE name = 'a'", "INSERT INTO things VALUES ('b')")
    with pytest.raises(KeyboardInterrupt):
        _change(database, "DELETE FROM things", KeyboardInterrupt())
    assert names(database) == names(other) == ["a", "b"]
    database.close()
    assert names(other) == ["a", "b"]
    other.close()


def _change(database: Database, *steps: str | BaseException) -> None:
    with database.transaction():
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            database.execute(step)


def test_it_waits_for_others(tmp_path: Path) -> None:
    database, other = opened(tmp_path / "a"), opened(tmp_path / "a", patience=0.05)
    with database.transaction(), pytest.raises(sqlite3.OperationalError, match="locked"), other.transaction():
        pass
    with other.transaction():
        other.execute("INSERT INTO things VALUES ('c')")
    assert names(database) == ["c"]
    database.close()
    other.close()


@pytest.mark.parametrize("found", [1, 4])
def test_another_format_is_refused(tmp_path: Path, found: int) -> None:
    opened(tmp_path / "a", found).close()
    with pytest.raises(sqlite3.DatabaseError, match=f"another version of Yardmaster \\(format {found}\\)"):
        opened(tmp_path / "a")
    opened(tmp_path / "a", found).close()  # and left as it was


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"something else that somebody keeps here" * 99)
    with pytest.raises(sqlite3.DatabaseError):
        opened(tmp_path / "a")
    assert (tmp_path / "a").read_bytes().startswith(b"something else")
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "no" / "such" / "folder")


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        database = opened(tmp_path / "a")
    finally:
        os.umask(before)
    with database.transaction():
        database.execute("INSERT INTO things VALUES ('a')")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a": 0o600, "a-wal": 0o600, "a-shm": 0o600}
    database.close()


def test_a_broken_schema_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        Database(tmp_path / "a", SCHEMA + "CREATE NONSENSE", 3, pragmas=(), patience=1, thread="things")
    database = opened(tmp_path / "a")
    assert names(database) == []
    database.close()


def test_one_thread_works_in_order() -> None:
    """Also what was asked for by who has left since."""
    database, order, threads = opened(MEMORY, pragmas=["secure_delete = ON"]), [], set()
    began, go_on = threading.Event(), threading.Event()

    def work(number: int, first: bool = False) -> int:
        if first:
            began.set()
            assert go_on.wait(5)
        order.append(number)
        threads.add(threading.current_thread().name)
        return -number

    async def ask() -> None:
        tasks = [asyncio.create_task(database.run(work, 0, first=True))]
        while not began.is_set():
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(database.run(work, number)) for number in range(1, 6)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        go_on.set()
        assert await asyncio.gather(*tasks[1:]) == [-1, -2, -3, -4, -5]
        with pytest.raises(ZeroDivisionError):
            await database.run(lambda: 1 // 0)

    anyio.run(ask)
    assert order == [0, 1, 2, 3, 4, 5]
    assert len(threads) == 1
    assert next(iter(threads)).startswith("things")
    assert database.execute("PRAGMA secure_delete").fetchone()[0] == 1
    database.close()
    with pytest.raises(sqlite3.ProgrammingError):
        names(database)
