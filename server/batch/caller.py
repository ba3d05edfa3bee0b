"""How a line gets its answer: through the HTTP routes themselves, in this process and behind everybody else's requests.

So a body means in a batch exactly what it means at its endpoint, refusals included.
"""

from __future__ import annotations

import asyncio
import logging
import uuid

import httpx
from fastapi import FastAPI, Response

from ...engine.client import EngineDead
from ..fair.ring import Keys
from ..fair.tenant import CALLER
from ..http import chat, completions, errors, responses
from ..http.config import HttpConfig
from ..http.middleware import unknown_key
from ..http.service import Service
from ..http.storage import named_key
from .lines import Line
from .results import Result, answered

log = logging.getLogger("yardmaster.batch")

_LOOK_SECONDS = 0.05


class Caller:
    """Answers lines, with `keys` within the limits of whoever they are of."""

    def __init__(self, service: Service, config: HttpConfig, keys: Keys | None = None) -> None:
        self._engine = service.client
        self._keys = keys
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        errors.install(app)
        app.include_router(chat.router(service, config))
        app.include_router(completions.router(service, config))
        app.include_router(responses.router(service, config, lambda request: "", None))
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://batch", timeout=None, trust_env=False
        )

    async def answer(self, line: Line, owner: str = "") -> Result | None:
        """None where it is to be asked again later: the engine, or the limits of `owner`'s key, allow nothing now.

        Cancelling it aborts what the engine has of it. Raises EngineDead.
        """
        result = await self._counted(line, owner)
        if result is None and self._engine.dead is not None:
            raise EngineDead(self._engine.dead)
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
