"""What /v1/files and /v1/batches share: whose a thing is, pages of lists, and how the store's refusals are worded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from fastapi import APIRouter, Request

from ..batch.records import Batch, StoredFile
from ..batch.store import NotFound, Refused
from ..fair.ring import Keys
from .config import HttpConfig
from .errors import ApiError, bad_request
from .middleware import bearer_key, unknown_key

Owner = Callable[[Request], str]

_STATUS = {"storage_full": 413, "too_many_batches": 429, "file_in_use": 409, "batch_over": 409}
_NAMED = "name:"
_METHODS = ["GET", "POST", "DELETE"]


def owner_by_key(config: HttpConfig, keys: Keys | None) -> Owner:
    """A key's files and batches are its own: a named key's go by the name, others by a digest. Without keys all are
    one owner's.
    """

    def owner(request: Request) -> str:
        if keys is None and not config.api_keys:
            return ""
        key = bearer_key(request.scope) or b""
        if keys is None:
            return "key:" + hashlib.sha256(key).hexdigest()
        tenant = keys.find(key)
        if tenant is None:  # the keys file was read anew this moment
            raise unknown_key()
        return _NAMED + tenant.spec.name

    return owner


def named_key(owner: str) -> str | None:
    """The name of the key of a keys file that `owner` is, None for other owners."""
    return owner.removeprefix(_NAMED) if owner.startswith(_NAMED) else None


def switched_off(prefix: str) -> APIRouter:
    """The routes under `prefix` of a server without a directory for them."""
    routes = APIRouter(include_in_schema=False)

    async def refuse(request: Request) -> NoReturn:
        message = "This server keeps no files and runs no batches: it was started without --batch-dir."
        raise ApiError(404, message, code="batches_disabled")

    for path in (prefix, f"{prefix}/{{rest:path}}"):
        routes.add_api_route(path, refuse, methods=_METHODS, response_model=None)
    return routes


@contextmanager
def worded(kind: str, param: str) -> Iterator[None]:
    """The store's exceptions as answers. `kind` is "file" or "batch", `param` the field that names it."""
    try:
        yield
    except NotFound:
        raise ApiError(404, f"{param}: there is no such {kind}", param=param, code=f"{kind}_not_found") from None
    except Refused as error:
        status = _STATUS[error.code]
        headers = {"retry-after": "60"} if status == 429 else None
        raise ApiError(status, str(error), code=error.code, headers=headers) from None


def limit_of(request: Request, default: int, most: int) -> int:
    """The query's `limit`. Raises ApiError 400."""
    given = request.query_params.get("limit")
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 9 and 1 <= int(given) <= most):
        raise bad_request(f"limit: a whole number from 1 to {most}", "limit")
    return int(given)


def after_of(request: Request) -> str | None:
    """The query's `after`, the id that the page before ended with."""
    return request.query_params.get("after") or None


def query(*parameters: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """`openapi_extra` of a route with these query parameters, which it reads itself."""
    return {"parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in parameters]}


def page(found: Sequence[StoredFile | Batch], has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [each.body for each in found],
        "first_id": found[0].id if found else None,
        "last_id": found[-1].id if found else None,
        "has_more": has_more,
    }
