"""What makes batches happen: one process of those that share the directory takes every batch through its states.

All that it knows is in the store. Whatever ends it, a signal, a dead engine, a full disk or kill -9, whoever comes next
goes on with the lines that have no result yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

from ...engine.client import EngineDead
from ..fair.ring import Keys
from ..http.config import HttpConfig
from ..http.errors import report
from ..http.service import Service
from ..http.stream import unless
from .background import behind
from .caller import Caller
from .crew import Crew
from .lines import Line, LineError, read_lines, survey
from .records import Batch, Status
from .results import CANCELLED, EXPIRED, not_run
from .store import Store

log = logging.getLogger("yardmaster.batch")

_TIDY_SECONDS = 600.0
_GROUP = 500  # lines without a run that are written at once


@asynccontextmanager
async def running(
    service: Service, config: HttpConfig, stop: asyncio.Event, keys: Keys | None = None
) -> AsyncIterator[Store | None]:
    """The store of `config.batch`, while its batches run beside the block, or until `stop`. None where there is none.

    `keys`: those of a keys file, which batches count for. Raises ValueError, naming the flag, for a directory that
    cannot be used.
    """
    if config.batch is None:
        yield None
        return
    store = Store(config.batch)
    background = behind(service, config.served_model_names[0], config.batch.max_running)
    runner = Runner(store, Caller(background, config, keys))
    task = asyncio.create_task(_run(runner, stop))
    try:
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(store.close)


async def _run(runner: Runner, stop: asyncio.Event) -> None:
    async def stopped() -> None:
        await stop.wait()

    try:
        await unless(runner.run(), asyncio.ensure_future(stopped()))
    except Exception as error:
        _tell("batches", error)


def _tell(what: str, error: Exception) -> None:
    """One log entry. The server itself speaks of a dead engine, and ends."""
    if isinstance(error, OSError | sqlite3.Error):  # the disk's, which the operator can mend
        log.error("%s: %s", what, error)
    elif not isinstance(error, EngineDead):
        report(log, what, error)


class Runner:
    """`run` never returns."""

    def __init__(self, store: Store, caller: Caller) -> None:
        self._store = store
        self._config = store.config
        self._caller = caller
        self._crew = Crew(store.config.max_running, store.config.retry)
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._cancelled: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        with _Turn(Path(self._config.directory)) as turn:
            while not turn.mine():
                await asyncio.sleep(self._config.poll)
            tidying = asyncio.create_task(self._tidy())
            try:
                await self._supervise()
            finally:
                for task in (tidying, *self._runs.values()):
                    task.cancel()
                await asyncio.gather(tidying, *self._runs.values(), return_exceptions=True)

    async def _supervise(self) -> None:
        """Start what is new, tell of cancellations, and look again."""
        while True:
            try:
                batches = await self._store.run(self._store.active, self._config.running_batches)
            except Exception as error:
                _tell("batches", error)
                batches = []
            for batch in batches:
                if batch.id not in self._runs:
                    self._cancelled[batch.id] = asyncio.Event()
                    self._runs[batch.id] = asyncio.create_task(self._run(batch.id))
                if batch.status == "cancelling":
                    self._cancelled[batch.id].set()
            await asyncio.sleep(self._config.poll)

    async def _run(self, identity: str) -> None:
        """One batch to its end, or until something fails: then from where it was, after a while."""
        try:
            await self._advance(identity)
        except Exception as error:
            _tell(identity, error)
            await asyncio.sleep(self._config.retry)
        finally:
            self._runs.pop(identity, None)
            self._cancelled.pop(identity, None)

    async def _advance(self, identity: str) -> None:
        store = self._store
        batch = await store.run(store.again, identity)
        if batch.status == "validating":
            await self._validate(batch)
            batch = await store.run(store.again, identity)
        if batch.status == "in_progress":
            await self._work(batch)
            batch = await store.run(store.again, identity)
        if batch.status == "finalizing":
            await self._close(batch, EXPIRED)  # lines that have no result by now are those for which there was no time
            outcome: Status = "completed" if batch.completed + batch.failed == batch.total else "expired"
            await store.run(store.finish, identity, outcome, "finalizing")
            batch = await store.run(store.again, identity)
        if batch.status == "cancelling":
            if batch.in_progress_at is not None:
                await self._close(batch, CANCELLED)
            await store.run(store.finish, identity, "cancelled", "cancelling")

    async def _validate(self, batch: Batch) -> None:
        path, bounds = self._store.shelf.path(batch.input_file_id), self._config
        try:
            found = await asyncio.to_thread(survey, path, bounds.max_lines, bounds.max_line_bytes, batch.endpoint)
            errors, lines = found.errors, found.lines
        except FileNotFoundError:
            errors, lines = (LineError("input_file_missing", "the input file is gone"),), 0
        if errors:
            await self._store.run(self._store.fail, batch.id, errors)
        else:
            await self._store.run(self._store.begin, batch.id, lines)

    async def _work(self, batch: Batch) -> None:
        """Until every line has a result, the time is up, or the batch is cancelled."""
        store = self._store
        lines = await self._left(batch)
        working = asyncio.create_task(self._answer_all(batch, lines))
        cancelled = asyncio.create_task(self._cancelled[batch.id].wait())
        try:
            seconds = max(0.0, batch.expires_at - store.clock())
            await asyncio.wait({working, cancelled}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, cancelled):
                task.cancel()
            await asyncio.gather(working, cancelled, return_exceptions=True)
        await store.run(store.finalize, batch.id)

    async def _answer_all(self, batch: Batch, lines: Iterator[Line]) -> None:
        await self._caller.wait_ready()
        await self._crew.work(
            lines,
            lambda line: self._caller.answer(line, batch.owner),
            lambda results: self._store.run(self._store.record, batch.id, results),
        )

    async def _close(self, batch: Batch, reason: tuple[str, str]) -> None:
        """Write an error for every line that has no result."""
        store = self._store
        lines = await self._left(batch)
        while group := await asyncio.to_thread(lambda: list(islice(lines, _GROUP))):
            await store.run(store.record, batch.id, [not_run(line, reason) for line in group])

    async def _left(self, batch: Batch) -> Iterator[Line]:
        """The lines that have no result, in order."""
        done = await self._store.run(self._store.done, batch.id)
        path = self._store.shelf.path(batch.input_file_id)
        return (line for line in read_lines(path, self._config.max_line_bytes) if line.number not in done)

    async def _tidy(self) -> None:
        while True:
            try:
                await self._store.run(self._store.tidy)
            except Exception as error:
                _tell("batches", error)
            await asyncio.sleep(_TIDY_SECONDS)


class _Turn:
    """Which of the processes runs batches: the one that holds a lock, which the system frees however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "runner.lock"

    def __enter__(self) -> _Turn:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def mine(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False
