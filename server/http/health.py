"""What an operator's tools ask: alive, ready, which version, and the metrics. No key needed, nothing secret told."""

from __future__ import annotations

from fastapi import APIRouter, Response

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
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    for path, route in (
        ("/health", health),
        ("/ping", health),
        ("/ready", ready),
        ("/version", version),
        ("/metrics", metrics),
    ):
        routes.add_api_route(path, route, methods=["GET"], operation_id=path[1:], response_model=None)
        routes.add_api_route(path, route, methods=["HEAD"], include_in_schema=False, response_model=None)
    return routes
