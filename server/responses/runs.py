"""Responses while they are made: one run each, at the pace of its client or in the background.

A background run belongs to nobody's connection: its events are noted for whoever asks for them, and its row in the
store is held by this process until it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial

from ..http.choice import Piece
from ..http.errors import ApiError, internal_error, report, unavailable
from ..http.generation import Generation
from ..http.logprobs import scored, worded
from ..http.notes import Notes, Said
from .events import Event, Narrator
from .resource import Resource, encode_resource
from .store import LEASE, ResponseStore

log = logging.getLogger("yardmaster.http")

MAX_RUNNING = 256  # in the background, of one process
MAX_ENDED = 64  # whose events can still be asked for
MAX_NOTED = 8 << 20  # bytes of one run's events; of more the first are forgotten

Keep = Callable[[Resource], Awaitable[None]]


class Run:
    """A started generation and what is told of it. `keep` is awaited before the last event goes out, so that whoever
    reads that can go on from the response at once.
    """

    def __init__(self, generation: Generation, notes: Notes, narrator: Narrator, keep: Keep) -> None:
        self.generation = generation
        self.narrator = narrator
        self._notes = notes
        self._keep = keep

    @property
    def identity(self) -> str:
        identity: str = self.narrator.resource["id"]
        return identity

    async def events(self) -> AsyncIterator[list[bytes]]:
        """As server-sent events. Whatever goes wrong is one too."""
        narrator, finish_reason, tokens = self.narrator, None, 0
        yield _encoded(narrator.begin())
        try:
            async for news in self.generation.pieces():
                for _, piece in news:
                    finish_reason, said = piece.finish_reason, self._notes.take()
                    tokens += len(piece.logprobs)
                    yield await worded(partial(_told, narrator, said, piece), scored([piece]))
            last = list(narrator.end(finish_reason))
        except ApiError as error:
            last = list(narrator.fail(error))
        except Exception as error:
            report(log, self.identity, error)
            last = list(narrator.fail(internal_error()))
        await self._keep(narrator.resource)
        yield await worded(partial(_encoded, last), tokens)

    async def whole(self, pieces: list[Piece]) -> bytes:
        """The response of a generation that has been collected, as JSON."""
        narrator, said, tokens = self.narrator, self._notes.take(), scored(pieces)

        def tell() -> None:
            for told in (narrator.begin(), narrator.tell(said, pieces[0]), narrator.end(pieces[0].finish_reason)):
                for _ in told:
                    pass

        await worded(tell, tokens)
        await self._keep(narrator.resource)
        return await worded(partial(encode_resource, narrator.resource), tokens)


class Noted:
    """The events of a background run, by number, for any number of readers."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._first = 0
        self._bytes = 0
        self._over = False
        self._news = asyncio.Event()

    def add(self, events: Iterable[bytes]) -> None:
        for event in events:
            self._events.append(event)
            self._bytes += len(event)
        forget = 0
        while self._bytes > MAX_NOTED and forget < len(self._events) - 1:
            self._bytes -= len(self._events[forget])
            forget += 1
        if forget:
            del self._events[:forget]
            self._first += forget
        self._wake()

    def end(self) -> None:
        self._over = True
        self._wake()

    def has(self, number: int) -> bool:
        """Whether reading can begin there."""
        return number >= self._first

    async def read(self, number: int) -> AsyncIterator[list[bytes]]:
        """From event `number` on, to the end. A reader who falls behind what is noted is cut off."""
        while self.has(number):
            events = self._events[number - self._first :]
            if events:
                number += len(events)
                yield events
            elif self._over:
                return
            else:
                await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Background:
    """The background runs of this process. Belongs to one event loop."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._running: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._noted: OrderedDict[str, Noted] = OrderedDict()
        self._renewing: asyncio.Task[None] | None = None

    def admit(self) -> None:
        """Raises ApiError 503 where there is no room for one more."""
        if len(self._running) >= MAX_RUNNING:
            message = f"{MAX_RUNNING} responses run in the background already; try again later."
            raise unavailable(message, "too_many_background_responses", 10)

    def start(self, run: Run, notes_events: bool) -> Noted | None:
        """Its row is in the store already, and its generation has been started."""
        noted = Noted() if notes_events else None
        if noted is not None:
            self._noted[run.identity] = noted
            while len(self._noted) > MAX_ENDED + len(self._running) + 1:
                del self._noted[next(identity for identity in self._noted if identity not in self._running)]
        self._running[run.identity] = run, asyncio.create_task(self._work(run, noted))
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return noted

    def holds(self, identity: str) -> bool:
        """Whether more is known of it here than its row in the store."""
        return identity in self._running or identity in self._noted

    def resource(self, identity: str) -> Resource | None:
        """A response that runs here, as it stands."""
        running = self._running.get(identity)
        return None if running is None else running[0].narrator.resource

    def noted(self, identity: str) -> Noted | None:
        return self._noted.get(identity)

    async def cancel(self, identity: str) -> None:
        """Let a run end as it stands, and wait until it has. Nothing happens where it is not running here."""
        if identity in self._running:
            run, task = self._running[identity]
            await run.generation.close()
            await asyncio.wait([task])

    def forget(self, identity: str) -> None:
        """It was deleted: nobody can ask for its events again."""
        self._noted.pop(identity, None)

    async def _work(self, run: Run, noted: Noted | None) -> None:
        try:
            async for events in run.events():
                if noted is not None:
                    noted.add(events)
        finally:
            if noted is not None:
                noted.end()
            del self._running[run.identity]
            await run.generation.close()

    async def _renew(self) -> None:
        """Hold the rows of what runs here; what was cancelled or deleted elsewhere ends."""
        while self._running:
            await asyncio.sleep(LEASE / 3)
            asked = list(self._running)
            try:
                held = await self._store.run(self._store.renew, asked)
            except Exception as error:  # a full disk, say: the run itself may still end well
                report(log, "response-store", error)
                continue
            for identity in asked:
                if identity not in held:
                    await self.cancel(identity)


def _told(narrator: Narrator, said: list[Said], piece: Piece) -> list[bytes]:
    return _encoded(narrator.tell(said, piece))


def _encoded(events: Iterable[Event]) -> list[bytes]:
    return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode_resource(event)) for event in events]
