"""What an operator does while the server runs: look at the keys, read their file again, empty the server.

`Gate` lets only admin keys come here.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter

from ..fair.ring import Keys
from .errors import ApiError

log = logging.getLogger("yardmaster.http")


def router(keys: Keys) -> APIRouter:
    routes = APIRouter(prefix="/admin", tags=["admin"])

    @routes.get("/keys")
    async def list_keys() -> dict[str, Any]:
        """Names, limits and usage of all keys; the keys themselves nobody here knows."""
        return await keys.listing()

    @routes.post("/keys/reload")
    async def reload_keys() -> dict[str, Any]:
        """Read the keys file again. When it is broken, the keys stay as they are."""
        try:
            return {"keys": await keys.reload()}
        except ValueError as error:
            log.error("the keys stay as they are: %s", error)
            raise ApiError(409, f"The keys stay as they are: {error}", code="invalid_keys_file") from None

    @routes.post("/drain")
    async def drain() -> dict[str, Any]:
        """Take no new requests; those that are here may end. Ask again to see how many are left."""
        return await keys.drain(True)

    @routes.delete("/drain")
    async def undrain() -> dict[str, Any]:
        """Take new requests again."""
        return await keys.drain(False)

    return routes
