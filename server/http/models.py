"""/v1/models: the names under which the one model is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from .config import HttpConfig
from .errors import ApiError
from .service import Service


def router(service: Service, config: HttpConfig) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])
    names = config.served_model_names

    def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "yardmaster",
            "root": names[0],
            "parent": None,
            "max_model_len": service.client.max_model_len if service.client.ready else None,
        }

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """All names."""
        return {"object": "list", "data": [card(name) for name in names]}

    @routes.get("/v1/models/{model:path}")
    async def retrieve_model(model: str) -> dict[str, Any]:
        """One name; it may hold slashes."""
        if model not in names:
            message = "This server does not serve that model; /v1/models lists what it does."
            raise ApiError(404, message, param="model", code="model_not_found")
        return card(model)

    return routes
