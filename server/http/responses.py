"""/v1/responses: answers that are made of items, kept, gone on from, streamed, or made in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from ..database import NotFound
from ..responses.chat_request import named, refuse_unknown
from ..responses.maker import Maker
from ..responses.resource import ACTIVE, Resource, encode_resource
from ..responses.runs import Background
from ..responses.schema import Conversation, ResponsesRequest
from ..responses.store import OFF, ResponseStore, StoreConfig
from .body import read_model
from .config import HttpConfig
from .errors import ApiError, bad_request
from .openapi import json_body
from .response_stream import ResponseStream, gone
from .service import Service
from .storage import Owner, after_of, limit_of, query
from .stream import unless

DEFAULT_PAGE, MAX_PAGE = 20, 100  # OpenAI's
OPEN_RESPONSES = "openresponses-version"  # the header of clients that go by that specification


def open_store(path: str) -> ResponseStore | None:
    """What --response-store names; None for `off`. Raises ValueError."""
    return None if path == OFF else ResponseStore(StoreConfig(path))


def router(
    service: Service, config: HttpConfig, owner: Owner, store: ResponseStore | None, runs: Background | None = None
) -> APIRouter:
    """`runs` over the same store, if others are to know them too."""
    routes = APIRouter(tags=["Responses"])
    maker = Maker(service, config, store, runs)

    @routes.post("/v1/responses", openapi_extra=json_body(ResponsesRequest))
    async def create_response(request: Request) -> Response:
        """Answer `input`, after what `previous_response_id` names: whole, streamed, or in the background."""
        body = await read_model(request, ResponsesRequest, config)
        refuse_unknown(body)
        with named(body):
            run, given = await maker.make(body, owner(request), OPEN_RESPONSES in request.headers)
        if body.background:
            started, noted = await maker.background(run, owner(request), given, bool(body.stream))
            return _json(started) if noted is None else ResponseStream(noted.read(0), _nothing, config.send_timeout)
        if body.stream:
            return ResponseStream(run.events(), run.generation.close, config.send_timeout)
        try:
            with named(body):
                left = asyncio.ensure_future(gone(request.receive))
                pieces = await unless(run.generation.collect(), left)
            # 499, as nginx has it, for the count; there is no one left to read it.
            if pieces is None:
                return Response(status_code=499)
            return Response(await run.whole(pieces), media_type="application/json")
        finally:
            await run.generation.close()

    @routes.post("/v1/responses/input_tokens", openapi_extra=json_body(Conversation))
    async def count_input_tokens(request: Request) -> dict[str, Any]:
        """How many tokens the prompt of such a response would have."""
        body = await read_model(request, Conversation, config)
        refuse_unknown(body)
        with named(body):
            tokens = await maker.count(body, owner(request))
        return {"object": "response.input_tokens", "input_tokens": tokens}

    @routes.get("/v1/responses/{response_id}", openapi_extra=_AGAIN)
    async def retrieve_response(request: Request, response_id: str) -> Response:
        """A response as it stands. `stream` (true): the events of one that was created with it in the background,

        from the one after number `starting_after`.
        """
        with _found():
            resource = await maker.kept(ResponseStore.get, owner(request), response_id)
        if not _flag(request, "stream"):
            return _json((maker.runs and maker.runs.resource(response_id)) or resource)
        noted = maker.runs.noted(response_id) if maker.runs is not None else None
        first = _starting_after(request) + 1
        if noted is None or not noted.has(first):
            message = "stream: the events of this response are not kept, or no longer; ask without `stream`"
            raise bad_request(message, "stream", "stream_not_available")
        return ResponseStream(noted.read(first), _nothing, config.send_timeout)

    @routes.delete("/v1/responses/{response_id}")
    async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        """Delete a response, which ends it if it still runs."""
        with _found():
            await maker.kept(ResponseStore.delete, owner(request), response_id)
        if maker.runs is not None:
            await maker.runs.cancel(response_id)
            maker.runs.forget(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    @routes.post("/v1/responses/{response_id}/cancel")
    async def cancel_response(request: Request, response_id: str) -> Response:
        """End a background response where it stands. One that is over stays as it is."""
        with _found():
            resource = await maker.kept(ResponseStore.get, owner(request), response_id)
            if not resource["background"]:
                message = "response_id: only a response that was created with background=true can be cancelled"
                raise bad_request(message, "response_id")
            if resource["status"] in ACTIVE and maker.runs is not None:
                await maker.runs.cancel(response_id)
                resource = await maker.kept(ResponseStore.cancel, owner(request), response_id)
        return _json(resource)

    @routes.get("/v1/responses/{response_id}/input_items", openapi_extra=_LIST)
    async def list_input_items(request: Request, response_id: str) -> dict[str, Any]:
        """The items of a response's own `input`. `limit`, `order` (asc or desc), `after`."""
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise bad_request("order: asc or desc", "order")
        limit, after = limit_of(request, DEFAULT_PAGE, MAX_PAGE), after_of(request)
        with _found():
            items = await maker.kept(ResponseStore.given, owner(request), response_id)
        if order == "desc":
            items.reverse()
        if after is not None:
            place = next((place for place, item in enumerate(items) if item["id"] == after), None)
            if place is None:
                raise bad_request("after: is no item of this response", "after")
            items = items[place + 1 :]
        page = items[:limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }

    return routes


@contextmanager
def _found() -> Iterator[None]:
    try:
        yield
    except NotFound:
        message = "response_id: there is no such response"
        raise ApiError(404, message, param="response_id", code="response_not_found") from None


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false").lower()
    if given not in ("true", "false"):
        raise bad_request(f"{name}: true or false", name)
    return given == "true"


def _starting_after(request: Request) -> int:
    given = request.query_params.get("starting_after")
    if given is None:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise bad_request("starting_after: the number of an event", "starting_after")
    return int(given)


def _json(resource: Resource) -> Response:
    return Response(encode_resource(resource), media_type="application/json")


async def _nothing() -> None: ...


_AGAIN = query(
    ("stream", {"type": "string", "enum": ["true", "false"], "default": "false"}),
    ("starting_after", {"type": "integer", "minimum": 0, "maximum": 999_999_999}),
)
_LIST = query(
    ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}),
    ("order", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
    ("after", {"type": "string"}),
)
