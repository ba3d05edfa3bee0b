"""A batch without a server: a file of requests in, a file of answers out, and a journal between them.

The journal stands beside the output while that is not whole. A run that is killed, at any moment, is gone on with by
giving the same command again.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...engine.config import EngineConfig
from ..front import make_service
from ..http.config import HttpConfig
from ..offline import engine_client
from .caller import Caller
from .crew import Crew
from .lines import read_lines, survey
from .results import Result

MAX_LINES = 1_000_000
MAX_LINE_BYTES = 9 << 20  # a body of 8 MiB, and what stands around it
RETRY_SECONDS = 0.2

_COPY = 1 << 20


@dataclass(slots=True)
class Counts:
    total: int
    completed: int = 0
    failed: int = 0


class Journal:
    """Results in the order in which they came, after a line that says of what. Raises ValueError for another's."""

    def __init__(self, path: Path, subject: str) -> None:
        self.counts = Counts(0)
        self._end = 0  # of what is certain
        self._path = path
        self._places: dict[int, tuple[int, int]] = {}  # by line of the input: offset and size
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path}: another run is writing this output") from None
        self._recover(subject.encode() + b"\n")

    @property
    def done(self) -> set[int]:
        return set(self._places)

    def add(self, results: Sequence[Result]) -> None:
        """Keep them for good: they are on the disk when this returns."""
        at, written = self._end, []
        for result in results:
            head = b"%d %d " % (result.line, result.ok)
            self._note(result.line, result.ok, at + len(head), len(result.text))
            written.append(head + result.text)
            at += len(written[-1])
        self._file.seek(self._end)
        self._file.write(b"".join(written))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._end = at

    def finish(self, output: Path) -> None:
        """All results in the order of the input become `output`, at once, and the journal goes."""
        whole = output.with_name(f"{output.name}.whole")
        with whole.open("wb") as file:
            for _, (place, size) in sorted(self._places.items()):
                self._file.seek(place)
                file.write(self._file.read(size))
            file.flush()
            os.fsync(file.fileno())
        whole.replace(output)
        self._path.unlink()
        self.close()

    def close(self) -> None:
        self._file.close()

    def _recover(self, head: bytes) -> None:
        """Read what an earlier run has left, less what it had half written when it was killed."""
        first = self._file.readline(len(head) + 1)
        if not head.startswith(first):  # one that was killed at once wrote a part of it, or nothing
            raise ValueError(f"{self._path} holds results of another input or model; remove it to begin anew")
        if first != head:
            self._file.seek(0)
            self._file.write(head)
        self._end = len(head)
        for row in self._file:
            number, ok, text = row.split(b" ", 2) if row.endswith(b"\n") else (b"", b"", b"")
            if not text:
                break
            self._note(int(number), ok == b"1", self._end + len(row) - len(text), len(text))
            self._end += len(row)
        self._file.truncate(self._end)

    def _note(self, line: int, ok: bool, place: int, size: int) -> None:
        if line in self._places:
            raise ValueError(f"{self._path}: line {line} is there twice; remove the file to begin anew")
        self._places[line] = (place, size)
        self.counts.completed += ok
        self.counts.failed += not ok


async def run_batch(
    engine: EngineConfig, http: HttpConfig, source: Path, output: Path,
    begun: Callable[[Counts], None], kept: Callable[[Counts], None], progress: Callable[[str], None],
) -> Counts:  # fmt: skip
    """Answer every line of `source` into `output`. `begun` and `kept` hear how far it is, `progress` start-up's lines.

    Raises ValueError, naming the line, for an input that is none; EngineDead when the engine fails.
    """
    found = survey(source, MAX_LINES, MAX_LINE_BYTES)
    if found.errors:
        raise ValueError(f"--input: {source}, {found.errors[0]}")
    journal = Journal(output.with_name(f"{output.name}.partial"), _subject(source, http))
    try:
        journal.counts.total = found.lines
        begun(journal.counts)
        if len(journal.done) < found.lines:
            await _answer(engine, http, source, journal, lambda: kept(journal.counts), progress)
        journal.finish(output)
    finally:
        journal.close()
    return journal.counts


async def _answer(
    engine: EngineConfig, http: HttpConfig, source: Path, journal: Journal, kept: Callable[[], None],
    progress: Callable[[str], None],
) -> None:  # fmt: skip
    limits = engine.scheduler
    at_once = engine.parallel.dp * limits.max_num_seqs + min(limits.max_waiting, limits.max_num_seqs)

    async def keep(results: Sequence[Result]) -> None:
        await asyncio.to_thread(journal.add, results)
        kept()

    with ExitStack() as resources:
        client = engine_client(engine, resources, progress)
        try:
            await client.start()
            service = make_service(engine, http, client)
            if service.template is not None:
                resources.callback(service.template.close)
            done = journal.done
            lines = (line for line in read_lines(source, MAX_LINE_BYTES) if line.number not in done)
            await Crew(at_once, RETRY_SECONDS).work(lines, Caller(service, http).answer, keep)
        finally:
            await client.stop()


def _subject(source: Path, http: HttpConfig) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while chunk := file.read(_COPY):
            digest.update(chunk)
    subject = {"yardmaster_batch": 1, "input": digest.hexdigest(), "model": http.served_model_names[0]}
    return msgspec.json.encode(subject).decode()
