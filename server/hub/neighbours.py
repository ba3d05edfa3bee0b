"""Responses that another front end makes: asked for here, answered there.

A background response belongs to the process that makes it: its state so far, its events, its end. So a request about
one that is not here goes through the hub to all others, and whoever makes it answers; where nobody does, the store
has all there is to know, and this front end answers itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..http import errors
from .client import HubClient
from .messages import NotHere, Part, Relay, Stop

_PATIENCE = 5.0  # seconds for all others to say whether they have it
_PATH = re.compile(r"/v1/responses/([A-Za-z0-9_-]{1,128})(?:/cancel)?")
_ROUTE = SimpleNamespace(path="/v1/responses/{response_id}")  # for the count of requests
_SENT_ON = frozenset({b"authorization", b"content-type", b"x-request-id"})


class Neighbours:
    """Of one front end. `serve` says what it can answer for others."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub
        self._app: FastAPI | None = None
        self._holds: Callable[[str], bool] = lambda response_id: False
        self._asked: dict[int, asyncio.Queue[Part | NotHere]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}

    def serve(self, routes: APIRouter, holds: Callable[[str], bool]) -> Callable[[ASGIApp], ASGIApp]:
        """`routes` answer for the responses that this process `holds`. Returns the middleware that asks the others."""
        self._app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        errors.install(self._app)
        self._app.include_router(routes)
        self._holds = holds
        return lambda app: _Elsewhere(app, self, holds)

    def hear(self, message: Relay | Part | NotHere | Stop) -> None:
        match message:
            case Relay() if self._holds(message.response_id):
                self._answering[message.number] = task = asyncio.create_task(self._answer(message))
                task.add_done_callback(lambda _: self._answering.pop(message.number, None))
            case Relay():
                self._hub.tell(NotHere(message.number))
            case Stop():
                if (answering := self._answering.get(message.number)) is not None:
                    answering.cancel()
            case Part() | NotHere():
                if (parts := self._asked.get(message.number)) is not None:
                    parts.put_nowait(message)

    async def ask(self, scope: Scope, response_id: str, receive: Receive, send: Send) -> bool:
        """Whether another front end makes the response; then it has answered."""
        if self._hub.dead is not None:
            return False
        number = self._hub.number()
        parts: asyncio.Queue[Part | NotHere] = asyncio.Queue()
        self._asked[number] = parts
        headers = [(name, value) for name, value in scope["headers"] if name in _SENT_ON]
        self._hub.tell(
            Relay(
                number=number,
                response_id=response_id,
                method=scope["method"],
                path=scope["path"],
                query=scope["query_string"],
                headers=headers,
            )
        )
        try:
            try:
                first = await asyncio.wait_for(parts.get(), _PATIENCE)
            except TimeoutError:
                return False
            if isinstance(first, NotHere):
                return False
            scope["route"] = _ROUTE
            left = asyncio.ensure_future(_gone(receive))
            passing = asyncio.ensure_future(_pass_on(first, parts, send))
            try:
                await asyncio.wait({left, passing}, return_when=asyncio.FIRST_COMPLETED)
                if passing.done():
                    passing.result()
                return True
            finally:
                for task in (left, passing):
                    task.cancel()
                await asyncio.gather(left, passing, return_exceptions=True)
        finally:
            del self._asked[number]
            self._hub.tell(Stop(number))

    async def _answer(self, message: Relay) -> None:
        number, app = message.number, self._app

        async def receive() -> Message:
            await asyncio.Event().wait()  # a client who leaves ends this task
            raise RuntimeError("unreachable")

        async def send(part: Message) -> None:
            if part["type"] == "http.response.start":
                self._hub.tell(Part(number=number, status=part["status"], headers=list(part.get("headers", ()))))
            else:
                last = not part.get("more_body", False)
                self._hub.tell(Part(number=number, body=part.get("body", b""), last=last))

        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
            "method": message.method, "path": message.path, "raw_path": message.path.encode(),
            "query_string": message.query, "headers": message.headers, "client": None, "server": None, "state": {},
        }  # fmt: skip
        try:
            if app is not None:
                await app(scope, receive, send)
        finally:
            self._hub.tell(Part(number=number, last=True))  # the second of two says nothing new


class _Elsewhere:
    def __init__(self, app: ASGIApp, neighbours: Neighbours, holds: Callable[[str], bool]) -> None:
        self._app = app
        self._neighbours = neighbours
        self._holds = holds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        elsewhere = named is not None and not self._holds(named[1])
        if not (named and elsewhere and await self._neighbours.ask(scope, named[1], receive, send)):
            await self._app(scope, receive, send)


async def _pass_on(first: Part, parts: asyncio.Queue[Part | NotHere], send: Send) -> None:
    part: Part | NotHere = first
    begun = False
    while isinstance(part, Part):
        if part.status:
            begun = True
            await send({"type": "http.response.start", "status": part.status, "headers": part.headers})
        elif begun:
            await send({"type": "http.response.body", "body": part.body, "more_body": not part.last})
        if part.last:
            break
        part = await parts.get()
    if not begun:  # it died, or failed, before it began
        raise RuntimeError("another front end failed on this request")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
