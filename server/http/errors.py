"""OpenAI's error body, `{"error": {message, type, param, code}}`, for everything that can go wrong on the way.

Messages state the fact, the limit and the mend; they never hold prompt text, keys or the inside of an exception.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

encode_json = msgspec.json.encode

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_CODES = {
    404: "unknown_url",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    431: "headers_too_large",
}


class ApiError(Exception):
    """An answer other than 200. `type` follows the status unless given."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code if code is not None else _CODES.get(status)
        self.type = type or ("invalid_request_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return Response(
            encode_json(self.body), status_code=self.status, headers=self.headers, media_type="application/json"
        )


def bad_request(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str, code: str, retry_after: int = 1) -> ApiError:
    return ApiError(503, message, code=code, headers={"retry-after": str(retry_after)})


def internal_error() -> ApiError:
    return ApiError(500, "The server failed on this request; its log says where.", code="internal_error")


def report(log: logging.Logger, request_id: str, error: BaseException) -> None:
    """One log entry: the exception's class and the lines of code it passed, not its text, which may quote a prompt."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    log.error("request %s failed with %s at\n%s", request_id, type(error).__name__, lines)


def install(app: FastAPI) -> None:
    """Give `app` the handlers that turn what its routes and its router raise into that body."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # The router's own 404 and 405; the path is the client's text and stays out of the message.
        if error.status_code == 404:
            message = "There is no such route; /openapi.json lists those there are."
        elif error.status_code == 405:
            allowed = _methods(request)
            error.headers = {"allow": allowed}
            message = f"This route does not take {request.method[:16]}; it takes {allowed}."
        else:
            message = HTTPStatus(error.status_code).phrase
        return ApiError(error.status_code, message, headers=error.headers).response()

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _methods(request: Request) -> str:
    """What the path takes, all its routes together: the router names but those of the first."""
    routes = request.app.routes
    asked = ((method, {**request.scope, "method": method}) for method in sorted(METHODS))
    return ", ".join(
        method for method, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
