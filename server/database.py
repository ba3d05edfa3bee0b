"""A SQLite database as our stores have it: of a known format, changed in whole steps, and worked on by one thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MEMORY = ":memory:"


class NotFound(LookupError):
    """There is no such thing, or it is another owner's: who asks cannot tell which."""


class Database:
    """Opens or makes `path`, a file or MEMORY. Several processes may share a file; only its owner may read one made.

    schema, version: what it is made of, and the number of that; a file of another number is refused.
    pragmas: beside those of the journal. patience: seconds that a change waits for another process' to end.
    Raises OSError for a file that cannot be opened, sqlite3.Error for what it cannot work with.
    """

    def __init__(
        self, path: str | Path, schema: str, version: int, *, pragmas: Sequence[str], patience: float, thread: str
    ) -> None:
        if path != MEMORY:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite's other files follow it
        self._connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", *pragmas):
                self.execute(f"PRAGMA {pragma}")
            self._prepare(schema, version)
        except BaseException:
            self._connection.close()
            raise
        self._thread = ThreadPoolExecutor(1, thread)

    async def run(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`verb(*args)` in the database's thread, after all that was asked of it before, even by who has left since."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: verb(*args, **kwargs))

    def close(self) -> None:
        """Once what was asked of it is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._connection.close()

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: Iterable[Any]) -> None:
        self._connection.executemany(statement, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's changes, or none."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")
            raise

    def _prepare(self, schema: str, version: int) -> None:
        with self.transaction():
            found = self.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in schema.split(";"):
                    self.execute(statement)
                self.execute(f"PRAGMA user_version = {version}")
            elif found != version:
                raise sqlite3.DatabaseError(f"made by another version of Yardmaster (format {found})")
