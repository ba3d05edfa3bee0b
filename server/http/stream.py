"""Server-sent events: each batch of news is one write, whatever is wrong is an event too, and who leaves is noticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from .choice import Piece
from .errors import ApiError, encode_json, internal_error, report
from .generation import Generation
from .logprobs import scored, worded

log = logging.getLogger("yardmaster.http")

DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

T = TypeVar("T")


class Events(Protocol):
    """How a route words its chunks."""

    def chunks(self, index: int, piece: Piece) -> Iterable[dict[str, Any]]:
        """The JSON of what is new in one choice."""

    def last(self) -> Iterable[dict[str, Any]]:
        """What follows the last choice: the usage, where it was asked for."""


class EventStream(Response):
    """Streams a started generation, and closes it: at its end, or at once when the client leaves or stops reading."""

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, events: Events, send_timeout: float) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._generation = generation
        self._events = events
        self._send_timeout = send_timeout
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope.get("state", {}).get("request_id", "")
        gone = asyncio.ensure_future(_disconnect(receive))
        stalled = asyncio.ensure_future(self._stall(request_id))
        try:
            await unless(self._write(send, request_id), gone, stalled)
        finally:
            await self._generation.close()

    async def _write(self, send: Send, request_id: str) -> None:
        clock = asyncio.get_running_loop().time
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for block in self._blocks(request_id):
            self._sending_since = clock()
            await send({"type": "http.response.body", "body": block, "more_body": True})
            self._sending_since = None
        await send({"type": "http.response.body", "body": b""})

    async def _stall(self, request_id: str) -> None:
        """Returns when one send has taken longer than the limit. Looks now and then: a timer a send would cost more."""
        clock = asyncio.get_running_loop().time
        while self._sending_since is None or clock() - self._sending_since < self._send_timeout:
            await asyncio.sleep(self._send_timeout / 4)
        log.warning("request %s: the client took nothing for %g s", request_id, self._send_timeout)

    async def _blocks(self, request_id: str) -> AsyncIterator[bytes]:
        try:
            async for news in self._generation.pieces():
                yield await worded(partial(self._block, news), scored(piece for _, piece in news))
            yield b"".join(event(chunk) for chunk in self._events.last()) + DONE
        except ApiError as error:
            yield event(error.body) + DONE
        except Exception as error:
            report(log, request_id, error)
            yield event(internal_error().body) + DONE

    def _block(self, news: list[tuple[int, Piece]]) -> bytes:
        return b"".join(event(chunk) for index, piece in news for chunk in self._events.chunks(index, piece))


def event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + encode_json(chunk) + b"\n\n"


async def unless(work: Coroutine[Any, Any, T], *reasons: asyncio.Future[None]) -> T | None:
    """Await `work`; cancel it and return None as soon as there is a reason to leave off."""
    working = asyncio.ensure_future(work)
    tasks: list[asyncio.Future[Any]] = [working, *reasons]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(
    request: Request,
    generation: Generation,
    events: Events | None,
    whole: Callable[[list[Piece]], dict[str, Any]],
    send_timeout: float,
) -> Response:
    """Run `generation` and answer with `events` as they come or, without any, with `whole` of all pieces at once."""
    await generation.start()
    if events is not None:
        return EventStream(generation, events, send_timeout)
    try:
        pieces = await unless(generation.collect(), asyncio.ensure_future(_disconnect(request.receive)))
        # 499, as nginx has it, for the count; there is no one left to read it.
        if pieces is None:
            return Response(status_code=499)
        body = await worded(lambda: encode_json(whole(pieces)), scored(pieces))
        return Response(body, media_type="application/json")
    finally:
        await generation.close()
