"""How a line gets its answer: through the HTTP routes themselves, in this process and behind everybody else's requests.

So a body means in a batch exactly what it means at its endpoint, refusals included.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace

import httpx
import msgspec
from fastapi import FastAPI, Response

from ... import __version__
from ...engine.client import EngineClient, EngineDead, EngineOverloaded
from ...engine.client_around import ClientAround
from ...engine.messages import EngineStats, RequestOutput, Submit
from ..fair.ring import Keys
from ..fair.tenant import CALLER
from ..http import chat, completions, errors, responses
from ..http.config import HttpConfig
from ..http.middleware import unknown_key
from ..http.service import Service
from ..http.storage import named_key
from ..metrics import Metrics
from .lines import Line
from .results import Result, answered

log = logging.getLogger("yardmaster.batch")

PRIORITY = 1 << 32  # lower runs first: behind whatever a request may ask for
_STALE_SECONDS = 5.0  # older statistics say nothing about now
_LOOK_SECONDS = 0.05


class Caller:
    """Answers lines. `retry`: seconds to wait where the engine cannot take work at present."""

    def __init__(self, service: Service, config: HttpConfig, retry: float, keys: Keys | None = None) -> None:
        self._engine = service.client
        self._retry = retry
        self._keys = keys
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        errors.install(app)
        app.include_router(chat.router(service, config))
        app.include_router(completions.router(service, config))
        app.include_router(responses.router(service, config, lambda request: "", None))
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://batch", timeout=None, trust_env=False
        )

    async def answer(self, line: Line, owner: str = "") -> Result:
        """However long it takes, within the limits of `owner`'s key. Cancelling it aborts what the engine has of it.

        Raises EngineDead.
        """
        while (result := await self._counted(line, owner)) is None:
            if self._engine.dead is not None:
                raise EngineDead(self._engine.dead)
            await asyncio.sleep(self._retry)
        return result

    async def wait_ready(self) -> None:
        """Until the engine takes requests. Raises EngineDead."""
        while not self._engine.ready:
            if self._engine.dead is not None:
                raise EngineDead(self._engine.dead)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _counted(self, line: Line, owner: str) -> Result | None:
        """As `_once`, as a request of the key that made the batch."""
        request_id = uuid.uuid4().hex
        name = named_key(owner)
        if self._keys is None or name is None:
            return await self._once(line, request_id)
        if not self._keys.tenants:  # a file has at least one: this front end has not heard of them yet
            return None
        try:
            tenant = self._keys.tenants.get(name)
            if tenant is None:  # it has left the file
                raise unknown_key()
            caller = await self._keys.enter(tenant, None, background=True)
        except errors.ApiError as error:
            return _settled(line, request_id, error.response())
        token = CALLER.set(caller)
        try:
            return await self._once(line, request_id)
        finally:
            CALLER.reset(token)
            caller.drop()

    async def _once(self, line: Line, request_id: str) -> Result | None:
        """None where it is not the line's fault that there is no answer."""
        try:
            response = await self._http.post(
                line.url, content=line.body, headers={"content-type": "application/json", "x-request-id": request_id}
            )
        except Exception as error:  # unforeseen in a route: a 500, as from the server
            errors.report(log, request_id, error)
            return answered(line, 500, request_id, errors.encode_json(errors.internal_error().body))
        return _settled(line, request_id, response)


def _settled(line: Line, request_id: str, response: httpx.Response | Response) -> Result | None:
    if response.status_code in (429, 503) and response.headers.get("x-should-retry") != "false":
        return None
    if response.headers.get("content-type") != "application/json":
        refusal = errors.bad_request("stream: a batch has no streams", "stream")
        return answered(line, refusal.status, request_id, errors.encode_json(refusal.body))
    body = response.content if isinstance(response, httpx.Response) else bytes(response.body)
    return answered(line, response.status_code, request_id, body)


def behind(service: Service, model: str, max_running: int) -> Service:
    """`service` for requests that come after everybody else's.

    With metrics of their own, which nobody reads: they may wait for hours, and the server's latencies are not that.
    """
    client = BackgroundClient(service.client, max_running)
    return replace(service, client=client, metrics=Metrics(model, __version__))


class BackgroundClient(ClientAround):
    """An `EngineClient` whose requests come last, and few at a time: only while nobody waits in the engine's queues."""

    def __init__(self, inner: EngineClient, max_running: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(inner)
        self._clock = clock
        self._places = asyncio.Semaphore(max_running)
        self._holders: set[str] = set()
        self._waiting: dict[int, tuple[float, int]] = {}  # by group: when heard, and how many waited
        inner.on_stats(self._hear)

    async def submit(self, request: Submit) -> AsyncGenerator[RequestOutput, None]:
        """Takes its time, and never finds the engine overloaded. Raises EngineDead."""
        await self._places.acquire()
        self._holders.add(request.request_id)
        try:
            while True:
                while self._crowded():
                    await asyncio.sleep(_LOOK_SECONDS)
                try:
                    late = msgspec.structs.replace(request, priority=PRIORITY, arrival=time.time())
                    return self._follow(request.request_id, await self._inner.submit(late))
                except EngineOverloaded as error:
                    await asyncio.sleep(error.retry_after)
        except BaseException:
            self._leave(request.request_id)
            raise

    async def abort(self, request_id: str) -> None:
        try:
            await self._inner.abort(request_id)
        finally:
            self._leave(request_id)

    async def _follow(
        self, request_id: str, outputs: AsyncIterator[RequestOutput]
    ) -> AsyncGenerator[RequestOutput, None]:
        try:
            async for output in outputs:
                if output.finish_reason is not None:
                    self._leave(request_id)
                yield output
        finally:
            self._leave(request_id)

    def _leave(self, request_id: str) -> None:
        """Once a request, however often it is said: an ended one is aborted too, and some are never read."""
        if request_id in self._holders:
            self._holders.remove(request_id)
            self._places.release()

    def _hear(self, group: int, stats: EngineStats) -> None:
        self._waiting[group] = self._clock(), stats.waiting

    def _crowded(self) -> bool:
        now = self._clock()
        return any(waiting and now - heard < _STALE_SECONDS for heard, waiting in self._waiting.values())
