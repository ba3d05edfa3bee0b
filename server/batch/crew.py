"""Lines to results, several at a time, each kept for good before the next takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from .lines import Line
from .results import Result

Answer = Callable[[Line], Awaitable[Result | None]]
Keep = Callable[[Sequence[Result]], Awaitable[object]]


class Crew:
    """At most `places` lines at once, over all `work` that goes on side by side: those take turns.

    A line that has no answer yet is tried again after `retry` seconds. Meanwhile its place is another's: the limit that
    stops one batch is none of the others' affair.
    """

    def __init__(self, places: int, retry: float) -> None:
        self._most = places
        self._places = asyncio.Semaphore(places)
        self._retry = retry

    async def work(self, lines: Iterator[Line], answer: Answer, keep: Keep) -> None:
        """Returns when every line's result has been kept. What fails ends all of it, and is raised.

        `answer` gives None for a line that is to be tried again.
        """
        keeper, turn = _Keeper(keep), asyncio.Lock()
        begun = asyncio.Semaphore(self._most)  # lines that wait to be tried again are held in memory: not all of a file
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (line := await asyncio.to_thread(next, lines, None)) is not None:
                await begun.acquire()
                place = _Place(self._places, turn)
                await place.take()
                task = asyncio.create_task(self._one(line, place, answer, keeper))
                task.add_done_callback(place.leave)
                task.add_done_callback(lambda _: begun.release())
                tasks.add(task)
                _reap(tasks)
            while tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                _reap(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, line: Line, place: _Place, answer: Answer, keeper: _Keeper) -> None:
        while (result := await answer(line)) is None:
            place.leave()
            await asyncio.sleep(self._retry)
            await place.take()
        await keeper.keep(result)


class _Place:
    """One line's, while it has one. `turn` is its batch's: of each batch one line waits at a time."""

    def __init__(self, places: asyncio.Semaphore, turn: asyncio.Lock) -> None:
        self._places = places
        self._turn = turn
        self._taken = False

    async def take(self) -> None:
        async with self._turn:
            await self._places.acquire()
            self._taken = True

    def leave(self, task: object = None) -> None:
        """However often it is said: at the end of `task` too, which may have been cancelled before it began."""
        if self._taken:
            self._taken = False
            self._places.release()


def _reap(tasks: set[asyncio.Task[None]]) -> None:
    """Raises what an ended task has raised."""
    for task in [each for each in tasks if each.done()]:
        tasks.remove(task)
        task.result()


class _Keeper:
    """Results that come while others are being written are written together, next."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._new: list[Result] = []
        self._writing = asyncio.Lock()

    async def keep(self, result: Result) -> None:
        self._new.append(result)
        async with self._writing:
            if self._new:  # else the one before has written this too
                taken, self._new = self._new, []
                await self._keep(taken)
