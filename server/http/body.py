"""From the wire to a checked model: reads a bounded body in bounded time and names the field that is wrong."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ValidationError

from ..text.json_bounds import JsonCount
from .config import HttpConfig
from .errors import ApiError, bad_request

Model = TypeVar("Model", bound=BaseModel)

_LOOKED_AT = 256  # of the errors in one body


async def read_model(request: Request, model: type[Model], config: HttpConfig) -> Model:
    """The request's JSON body as `model`. Raises ApiError: 408, 413, 415, or 400 with the field's path in `param`."""
    raw = await _read(request, config)
    if excess := JsonCount().excess(raw):
        raise ApiError(413, f"The body holds {excess}; send less in one request.")
    # What is made of the body is all alive: walking it again and again would be most of the time it takes.
    gc.disable()
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise explain(error, raw) from None
    finally:
        gc.enable()


async def _read(request: Request, config: HttpConfig) -> bytes:
    # A page in a browser can post text/plain to a loopback address unasked; application/json it cannot.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "The body must be JSON, with the header `Content-Type: application/json`.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "A compressed body is not accepted; send it without Content-Encoding.")
    limit = config.max_body_bytes
    too_large = ApiError(413, f"The body exceeds {limit} bytes.", headers={"connection": "close"})
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(config.body_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        message = f"The body did not arrive within {config.body_timeout:g} s."
        raise ApiError(408, message, headers={"connection": "close"}) from None
    return bytes(body)


def explain(error: ValidationError, raw: bytes) -> ApiError:
    """The 400 for what pydantic found: the deepest place that any branch of a union reached, and what it wanted."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[:_LOOKED_AT]
    if found[0]["type"] == "json_invalid":
        return bad_request(f"The body is not valid JSON: {found[0]['msg'].partition(': ')[2]}", code="invalid_json")
    document = pydantic_core.from_json(raw)
    paths = [_path(document, each["loc"], missing=each["type"] == "missing") for each in found]
    deepest = max(paths, key=len)
    wants = dict.fromkeys(
        each["msg"].removeprefix("Value error, ") for each, path in zip(found, paths, strict=True) if path == deepest
    )
    param = _spell(deepest)
    message = " or ".join(list(wants)[:3])
    code = "missing_required_parameter" if any(each["type"] == "missing" for each in found) else "invalid_value"
    return bad_request(f"{param or 'body'}: {message}", param=param or None, code=code)


def _path(document: Any, location: tuple[int | str, ...], missing: bool) -> tuple[int | str, ...]:
    """`location` less the names of union branches, which pydantic puts between the real keys."""
    path: list[int | str] = []
    for step in location:
        keyed = isinstance(document, dict) and isinstance(step, str) and step in document
        counted = isinstance(document, list) and isinstance(step, int) and step < len(document)
        if keyed or counted:
            document = document[step]
            path.append(step)
    if missing:
        path.append(location[-1])
    return tuple(path)


def _spell(path: tuple[int | str, ...]) -> str:
    """`("messages", 0, "content")` as `messages[0].content`. Keys that the client made up are shortened."""
    spelled = ""
    for step in path:
        if isinstance(step, int):
            spelled += f"[{step}]"
        else:
            name = step if len(step) <= 64 and step.isprintable() else "?"
            spelled += f".{name}" if spelled else name
    return spelled
