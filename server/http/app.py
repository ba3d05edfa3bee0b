"""The HTTP application: routes, errors and what stands around every request, from one service and one config."""

from __future__ import annotations

from fastapi import FastAPI

from ... import __version__
from ..batch.store import Store
from ..fair.ring import Keys
from ..hub.neighbours import Neighbours
from ..messages.door import AnthropicDoor
from ..messages.schema import CountTokensRequest, MessagesRequest
from ..responses.runs import Background
from ..responses.schema import Conversation, ResponsesRequest
from . import admin, batches, chat, completions, docs_page, errors, files, health, messages, models, responses, tokenize
from .config import HttpConfig
from .gate import Gate
from .middleware import Guard, Observe
from .openapi import describe
from .schema.batches import BatchRequest
from .schema.chat import ChatRequest
from .schema.completions import CompletionRequest
from .schema.tokenize import DetokenizeRequest, TokenizeRequest
from .service import Service
from .storage import owner_by_key


def create_app(
    service: Service,
    config: HttpConfig,
    keys: Keys | None = None,
    store: Store | None = None,
    neighbours: Neighbours | None = None,
) -> FastAPI:
    """The ASGI application. Starting and stopping `service.client` is the caller's business, at any time.

    With `keys`, those of a file, `service.client` is a `FairClient` over the same. `store` is that of --batch-dir;
    `neighbours` are the server's other front ends, where there are several.
    """
    # Not FastAPI's pages of documentation: they run scripts from a host that is not ours.
    app = FastAPI(title="Yardmaster", version=__version__, redirect_slashes=False, docs_url=None, redoc_url=None)
    owner = owner_by_key(config, keys)
    kept = responses.open_store(config.response_store)
    runs = None if kept is None else Background(kept)
    answers = responses.router(service, config, owner, kept, runs)
    if neighbours is not None and runs is not None:
        app.add_middleware(neighbours.serve(answers, runs.holds))  # innermost
    if keys is not None:
        app.add_middleware(Gate, keys=keys)
    app.add_middleware(Guard, config=config)
    app.add_middleware(Observe, metrics=service.metrics, max_requests=config.max_requests)
    app.add_middleware(AnthropicDoor)  # outermost
    errors.install(app)
    for routes in (
        chat.router(service, config),
        completions.router(service, config),
        messages.router(service, config),
        models.router(service, config),
        tokenize.router(service, config),
        health.router(service),
        files.router(store, config, owner),
        batches.router(store, config, owner),
        answers,
    ):
        app.include_router(routes)
    if keys is not None:
        app.include_router(admin.router(keys))
    describe(
        app,
        [
            ChatRequest, CompletionRequest, ResponsesRequest, Conversation, TokenizeRequest, DetokenizeRequest,
            BatchRequest, MessagesRequest, CountTokensRequest,
        ],
    )  # fmt: skip
    app.include_router(docs_page.router(app.openapi))
    return app
