"""The HTTP application: routes, errors and what stands around every request, from one service and one config."""

from __future__ import annotations

from fastapi import FastAPI

from ... import __version__
from . import chat, completions, errors, health, models, tokenize
from .config import HttpConfig
from .middleware import Guard, Observe
from .openapi import describe
from .schema.chat import ChatRequest
from .schema.completions import CompletionRequest
from .schema.tokenize import DetokenizeRequest, TokenizeRequest
from .service import Service


def create_app(service: Service, config: HttpConfig) -> FastAPI:
    """The ASGI application. Starting and stopping `service.client` is the caller's business, at any time."""
    # No pages of documentation: they would run scripts from a host that is not ours. /openapi.json has it all.
    app = FastAPI(title="Yardmaster", version=__version__, redirect_slashes=False, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, config=config)
    app.add_middleware(Observe, metrics=service.metrics, max_requests=config.max_requests)  # outermost
    errors.install(app)
    for routes in (
        chat.router(service, config),
        completions.router(service, config),
        models.router(service, config),
        tokenize.router(service, config),
        health.router(service),
    ):
        app.include_router(routes)
    describe(app, [ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest])
    return app
