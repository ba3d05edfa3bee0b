"""Around every request: an id in and out, a count, a key, a bound on headers, and a clean 500. Pure ASGI.

`Observe` stands outermost, so that even a refused request carries its id and is counted; `Guard` stands inside it, and
inside that `Gate` (gate.py), where keys come from a file.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import uuid

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..metrics import Metrics
from .config import HttpConfig
from .errors import METHODS, ApiError, internal_error, report, unavailable

log = logging.getLogger("yardmaster.http")

OPEN_PATHS = frozenset({"/health", "/ready", "/ping", "/version", "/metrics", "/openapi.json", "/docs"})

_NOT_AN_ID = re.compile(rb"[^A-Za-z0-9._:-]+")
_MAX_ID = 128


class Observe:
    """Gives the request its id, counts the answer, and turns an unforeseen exception into a 500 and one log entry."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_requests: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_requests = max_requests
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode("ascii"))]
            await send(message)

        self._in_flight += 1
        try:
            if self._in_flight > self._max_requests and scope["path"] not in OPEN_PATHS:
                busy = unavailable(f"{self._max_requests} requests are running already; try again.", "server_busy")
                await busy.response()(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass
        except Exception as error:
            report(log, request_id, error)
            if not status:
                await internal_error().response()(scope, receive, send_with_id)
        finally:
            self._in_flight -= 1
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            # What is refused before its route is looked for: of the open ones, which probes ask, we know the name.
            unrouted = scope["path"] if scope["path"] in OPEN_PATHS else "unmatched"
            handler = getattr(scope.get("route"), "path", unrouted)
            self._metrics.http_requests.labels(handler, method, str(status or 499)).inc()


class Guard:
    """Lets a request through whose headers are small enough and which brings one of the keys, where there are any.

    Only digests of the keys are kept, and all of them are compared every time, so that the time taken tells nothing.
    """

    def __init__(self, app: ASGIApp, config: HttpConfig) -> None:
        self._app = app
        self._limit = config.max_header_bytes
        self._digests = [_digest(key.encode()) for key in config.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self._limit:
            return ApiError(431, f"The request's line and headers exceed {self._limit} bytes.")
        if not self._digests or scope["path"] in OPEN_PATHS:
            return None
        key = bearer_key(scope)
        digest = _digest(key or b"")
        known = False
        for one in self._digests:
            known |= hmac.compare_digest(one, digest)
        return None if known and key is not None else unknown_key()


def bearer_key(scope: Scope) -> bytes | None:
    """The key that a request shows; None where it shows none, or more than one."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return key.strip() if scheme.lower() == b"bearer" else None


def unknown_key() -> ApiError:
    # OpenAI's first words: LiteLLM knows the error by them, not by its status.
    message = "Incorrect API key provided, or none: this server wants one of its own, as `Authorization: Bearer KEY`."
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _request_id(scope: Scope) -> str:
    """The client's `x-request-id`, less what could break a log line or a header, or one of our own."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = _NOT_AN_ID.sub(b"", value[: 4 * _MAX_ID])[:_MAX_ID]
            if given:
                return given.decode("ascii")
    return uuid.uuid4().hex


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
