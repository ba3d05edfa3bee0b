"""Files and batches that outlive the process: SQLite beside the files themselves, in one directory.

Every change is one transaction that is on the disk before anybody is told of it. Results are exactly-once by
construction: within one transaction `record` appends their lines to the output files and notes the line numbers and
the files' new sizes. Killed before its end, a process leaves bytes beyond the noted size, which the next append cuts
off, and the lines run again; killed after it, they are done.

Several processes may share the directory; `Store.run` gives each of them one thread that writes.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..database import Database, NotFound
from .config import BatchConfig
from .files import Shelf
from .lines import LineError
from .records import ACTIVE, Batch, Status, StoredFile
from .results import Result

_VERSION = 1
_BUSY_SECONDS = 30
_SCHEMA = """
CREATE TABLE files (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, filename TEXT NOT NULL,
    purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL
);
CREATE INDEX files_of ON files (owner, place);
CREATE TABLE batches (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, endpoint TEXT NOT NULL,
    input_file_id TEXT NOT NULL, output_file_id TEXT NOT NULL, error_file_id TEXT NOT NULL,
    created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, keep_output INTEGER NOT NULL, metadata TEXT NOT NULL,
    status TEXT NOT NULL, errors TEXT NOT NULL, in_progress_at INTEGER, finalizing_at INTEGER, completed_at INTEGER,
    failed_at INTEGER, expired_at INTEGER, cancelling_at INTEGER, cancelled_at INTEGER, total INTEGER NOT NULL,
    completed INTEGER NOT NULL, failed INTEGER NOT NULL, output_bytes INTEGER NOT NULL, error_bytes INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL
);
CREATE INDEX batches_of ON batches (owner, place);
CREATE INDEX batches_by_status ON batches (status, place);
CREATE TABLE done (batch TEXT NOT NULL, line INTEGER NOT NULL, PRIMARY KEY (batch, line)) WITHOUT ROWID;
"""
_FILE = ", ".join(each.name for each in fields(StoredFile))
_BATCH = ", ".join(each.name for each in fields(Batch))
_ACTIVE = ", ".join(f"'{status}'" for status in ACTIVE)


class Refused(RuntimeError):
    """The store's state does not allow it. `code` is for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Store:
    """Opens or makes the directory. Its methods belong in one thread: call them through `run`.

    Raises ValueError, naming --batch-dir, for a directory that cannot be used.
    """

    def __init__(self, config: BatchConfig, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self.clock = clock
        directory = Path(config.directory)
        try:
            self.shelf = Shelf(directory)
            self._db = Database(
                directory / "batches.sqlite", _SCHEMA, _VERSION,
                pragmas=["synchronous = FULL"], patience=_BUSY_SECONDS, thread="batch-store",
            )  # fmt: skip
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"--batch-dir {config.directory}: {error}") from None
        self.run = self._db.run
        self.close = self._db.close

    # Files

    def check_room(self, size: int) -> None:
        """Raises Refused when a file of `size` bytes cannot be taken."""
        count, stored = self._db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM files").fetchone()
        if count >= self.config.max_files or stored + size > self.config.max_stored_bytes:
            limits = f"{self.config.max_files} files and {self.config.max_stored_bytes} bytes"
            raise Refused("storage_full", f"This server keeps at most {limits}. Delete files that are done with.")
        if not self.shelf.has_room(size):
            raise Refused("storage_full", "The disk behind this server's files is nearly full.")

    def add_file(self, file: StoredFile, content: Path) -> None:
        """Take the file at `content` in. Raises Refused."""
        self.check_room(file.bytes)
        self.shelf.keep(content, file.id)
        with self._db.transaction():
            self._insert("files", file)

    def file(self, owner: str, identity: str) -> StoredFile:
        """Raises NotFound."""
        row = self._db.execute(
            f"SELECT {_FILE} FROM files WHERE id = ? AND owner = ? AND expires_at > ?",
            (identity, owner, self.clock()),
        ).fetchone()
        if row is None:
            raise NotFound(identity)
        return StoredFile(**row)

    def files(
        self, owner: str, purpose: str | None, limit: int, newest_first: bool, after: str | None
    ) -> tuple[list[StoredFile], bool]:
        """A page of an owner's files, and whether more follow. Raises NotFound for `after`."""
        where, values = "owner = ? AND expires_at > ?", [owner, self.clock()]
        if purpose is not None:
            where, values = f"{where} AND purpose = ?", [*values, purpose]
        rows = self._page("files", _FILE, where, values, limit, newest_first, owner, after)
        return [StoredFile(**row) for row in rows[:limit]], len(rows) > limit

    def delete_file(self, owner: str, identity: str) -> None:
        """Raises NotFound, or Refused while a batch reads it."""
        with self._db.transaction():
            self.file(owner, identity)
            user = self._db.execute(
                f"SELECT id FROM batches WHERE input_file_id = ? AND status IN ({_ACTIVE})", (identity,)
            ).fetchone()
            if user is not None:
                raise Refused("file_in_use", f"Batch {user['id']} reads this file; cancel it first.")
            self._db.execute("DELETE FROM files WHERE id = ?", (identity,))
        self.shelf.remove(identity)

    # Batches, as their owners see them

    def add_batch(self, batch: Batch) -> None:
        """Raises NotFound when its input is none of the owner's, Refused when too many batches wait already."""
        with self._db.transaction():
            self.file(batch.owner, batch.input_file_id)
            active = self._db.execute(f"SELECT count(*) FROM batches WHERE status IN ({_ACTIVE})").fetchone()[0]
            if active >= self.config.max_active_batches:
                raise Refused("too_many_batches", f"{active} batches are waiting or running already; try again later.")
            self._insert("batches", batch)

    def batch(self, owner: str, identity: str) -> Batch:
        """Raises NotFound."""
        row = self._db.execute(f"SELECT {_BATCH} FROM batches WHERE id = ? AND owner = ?", (identity, owner)).fetchone()
        if row is None:
            raise NotFound(identity)
        return Batch(**row)

    def batches(self, owner: str, limit: int, after: str | None) -> tuple[list[Batch], bool]:
        """A page of an owner's batches, the newest first, and whether more follow. Raises NotFound for `after`."""
        rows = self._page("batches", _BATCH, "owner = ?", [owner], limit, True, owner, after)
        return [Batch(**row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, owner: str, identity: str) -> Batch:
        """Raises NotFound, or Refused for a batch that is over."""
        with self._db.transaction():
            batch = self.batch(owner, identity)
            if not batch.active:
                raise Refused("batch_over", f"A batch that is {batch.status} cannot be cancelled.")
            if batch.status != "cancelling":
                self._move(identity, "cancelling", batch.status)
        return self.batch(owner, identity)

    # Batches, as the runner sees them

    def active(self, limit: int) -> list[Batch]:
        """Those that are not over: first what is to be cancelled, then each owner's oldest, each one's second, …"""
        turn = "row_number() OVER (PARTITION BY owner ORDER BY status != 'cancelling', place)"
        rows = self._db.execute(
            f"SELECT {_BATCH} FROM (SELECT *, {turn} AS turn FROM batches WHERE status IN ({_ACTIVE}))"
            " ORDER BY status != 'cancelling', turn, place LIMIT ?",
            (limit,),
        )
        return [Batch(**row) for row in rows]

    def again(self, identity: str) -> Batch:
        """The batch as it is now."""
        row = self._db.execute(f"SELECT {_BATCH} FROM batches WHERE id = ?", (identity,)).fetchone()
        return Batch(**row)

    def begin(self, identity: str, total: int) -> None:
        """A validated batch of `total` lines. One that was cancelled meanwhile stays cancelled."""
        with self._db.transaction():
            if self._move(identity, "in_progress", "validating"):
                self._db.execute("UPDATE batches SET total = ? WHERE id = ?", (total, identity))

    def fail(self, identity: str, errors: Sequence[LineError]) -> None:
        """End a batch whose input is not what it must be."""
        data = [
            {"code": error.code, "message": str(error), "param": error.param, "line": error.line} for error in errors
        ]
        with self._db.transaction():
            if self._move(identity, "failed", "validating"):
                self._db.execute("UPDATE batches SET errors = ? WHERE id = ?", (json.dumps(data), identity))

    def finalize(self, identity: str) -> None:
        """All lines are done, or the time is up."""
        with self._db.transaction():
            self._move(identity, "finalizing", "in_progress")

    def done(self, identity: str) -> set[int]:
        """Numbers of the lines that have a result."""
        return {row["line"] for row in self._db.execute("SELECT line FROM done WHERE batch = ?", (identity,))}

    def record(self, identity: str, results: Sequence[Result]) -> None:
        """Keep results for good. Raises sqlite3.IntegrityError, and keeps none, when a line has one already."""
        ran = [each for each in results if each.ran]
        with self._db.transaction():  # appends too: another process may still be at its last ones
            batch = self.again(identity)
            output, error = (
                self.shelf.append(file_id, size, [each.text for each in results if each.ok is ok])
                for file_id, size, ok in (
                    (batch.output_file_id, batch.output_bytes, True),
                    (batch.error_file_id, batch.error_bytes, False),
                )
            )
            self._db.executemany("INSERT INTO done VALUES (?, ?)", [(identity, each.line) for each in results])
            self._db.execute(
                "UPDATE batches SET output_bytes = ?, error_bytes = ?, completed = completed + ?, failed = failed + ?,"
                " input_tokens = input_tokens + ?, cached_tokens = cached_tokens + ?,"
                " output_tokens = output_tokens + ?, reasoning_tokens = reasoning_tokens + ? WHERE id = ?",
                (
                    output, error, sum(each.ok for each in ran), sum(not each.ok for each in ran),
                    sum(each.tokens.input for each in ran), sum(each.tokens.cached for each in ran),
                    sum(each.tokens.output for each in ran), sum(each.tokens.reasoning for each in ran), identity,
                ),
            )  # fmt: skip

    def finish(self, identity: str, status: Status, before: Status) -> None:
        """End a batch that is `before`, and make its output files' owner see them."""
        now = int(self.clock())
        with self._db.transaction():
            if not self._move(identity, status, before):
                return
            batch = self.again(identity)
            for kind, file_id, size in (
                ("output", batch.output_file_id, batch.output_bytes),
                ("error", batch.error_file_id, batch.error_bytes),
            ):
                self.shelf.cut(file_id, size)
                if size:
                    file = StoredFile(
                        id=file_id, owner=batch.owner, filename=f"{identity}_{kind}.jsonl", purpose="batch_output",
                        bytes=size, created_at=now, expires_at=now + batch.keep_output,
                    )  # fmt: skip
                    self._insert("files", file)
            self._db.execute("DELETE FROM done WHERE batch = ?", (identity,))

    def tidy(self) -> None:
        """Forget what is past its time, and remove what killed processes left behind."""
        now = self.clock()
        late = "expires_at <= ? AND id NOT IN (SELECT input_file_id FROM batches WHERE status IN (" + _ACTIVE + "))"
        with self._db.transaction():
            gone = [row["id"] for row in self._db.execute(f"SELECT id FROM files WHERE {late}", (now,))]
            self._db.execute(f"DELETE FROM files WHERE {late}", (now,))
            self._db.execute(
                f"DELETE FROM batches WHERE created_at <= ? AND status NOT IN ({_ACTIVE})",
                (now - self.config.keep_batches,),
            )
            known = {row["id"] for row in self._db.execute("SELECT id FROM files")}
            for batch in self.active(-1):
                known |= {batch.output_file_id, batch.error_file_id}
        for identity in gone:
            self.shelf.remove(identity)
        self.shelf.sweep(known)

    def _insert(self, table: str, record: StoredFile | Batch) -> None:
        values = asdict(record)
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        self._db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", values)

    def _move(self, identity: str, status: Status, before: Status) -> bool:
        """From one status to another, with the time; False when the batch has left that one meanwhile."""
        changed = self._db.execute(
            f"UPDATE batches SET status = ?, {status}_at = ? WHERE id = ? AND status = ?",
            (status, int(self.clock()), identity, before),
        )
        return changed.rowcount == 1

    def _page(
        self, table: str, columns: str, where: str, values: list[Any], limit: int, newest_first: bool, owner: str,
        after: str | None,
    ) -> list[Any]:  # fmt: skip
        if after is not None:
            row = self._db.execute(f"SELECT place FROM {table} WHERE id = ? AND owner = ?", (after, owner)).fetchone()
            if row is None:
                raise NotFound(after)
            where, values = f"{where} AND place {'<' if newest_first else '>'} ?", [*values, row["place"]]
        order = "DESC" if newest_first else "ASC"
        return self._db.execute(
            f"SELECT {columns} FROM {table} WHERE {where} ORDER BY place {order} LIMIT ?", (*values, limit + 1)
        ).fetchall()
