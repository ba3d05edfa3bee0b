"""What an operator's tools ask: alive, ready, which version, and the metrics. No key needed, nothing secret told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from ... import __version__
from ..metrics import CONTENT_TYPE
from .service import Service, engine_dead


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    async def health() -> Response:
        """200 while the engine lives, loading included; 503 when it is dead."""
        if service.client.dead is not None:
            raise engine_dead()
        return Response()

    async def ready() -> Response:
        """200 when requests are taken; 503 while the model loads and when the engine is dead."""
        service.admit()
        return Response()

    async def version() -> dict[str, str]:
        """The version of this server."""
        return {"version": __version__}

    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(await service.metrics.scrape(), media_type=CONTENT_TYPE)

    kinds: tuple[tuple[str, Callable[..., Any], type[Response]], ...] = (
        ("/health", health, Response),
        ("/ping", health, Response),
        ("/ready", ready, Response),
        ("/version", version, JSONResponse),
        ("/metrics", metrics, PlainTextResponse),
    )
    for path, route, kind in kinds:
        shown: dict[str, Any] = {"operation_id": path[1:], "response_class": kind, "response_model": None}
        routes.add_api_route(path, route, methods=["GET"], **shown)
        routes.add_api_route(path, route, methods=["HEAD"], include_in_schema=False, **shown)
    return routes
