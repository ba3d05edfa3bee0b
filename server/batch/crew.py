"""Lines to results, several at a time, each kept for good before the next takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from .lines import Line
from .results import Result

Answer = Callable[[Line], Awaitable[Result]]
Keep = Callable[[Sequence[Result]], Awaitable[object]]


class Crew:
    """At most `places` lines at once, over all `work` that goes on side by side: those take turns."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)

    async def work(self, lines: Iterator[Line], answer: Answer, keep: Keep) -> None:
        """Returns when every line's result has been kept. What fails ends all of it, and is raised."""
        keeper = _Keeper(keep)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (line := await asyncio.to_thread(next, lines, None)) is not None:
                await self._places.acquire()
                task = asyncio.create_task(_one(line, answer, keeper))
                task.add_done_callback(lambda _: self._places.release())
                tasks.add(task)
                _reap(tasks)
            while tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                _reap(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _one(line: Line, answer: Answer, keeper: _Keeper) -> None:
    await keeper.keep(await answer(line))


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
