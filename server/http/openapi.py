"""The documentation of bodies that the routes parse and word themselves: FastAPI shows them as if it had done it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .examples import EXAMPLES
from .middleware import OPEN_PATHS

_REF = "#/components/schemas/{model}"
_KINDS = {"/v1/files/{file_id}/content": "application/octet-stream"}
_STREAMED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"})
_ANTHROPIC = "/v1/messages"
_TEXT: dict[str, Any] = {"type": "string"}
_OBJECT: dict[str, Any] = {"type": "object"}
_ABOUT = "OpenAI's API, and Anthropic's messages, over one model. Unknown fields are ignored; known ones that are not "
_ABOUT += "done are refused by name."
_REFUSALS = {
    "400": "A field is wrong, or not offered: `param` names it.",
    "401": "The server wants a key, and this is none of them.",
    "403": "An admin's key is wanted.",
    "404": "There is no such thing: a model, a file, a batch, a response.",
    "409": "It is in use, or over.",
    "413": "The body is too large, or the store is full.",
    "415": "The body is of another type.",
    "429": "A limit of the key: `Retry-After` says when to come again.",
    "503": "The engine is loading, full, stopping or dead: `Retry-After` says when to come again.",
    "4XX": "Refused; `error` says why.",
    "5XX": "Not now, or failed.",
}
_ERRORS = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string", "minLength": 1, "description": "What is wrong, and the mend."},
                    "type": {"type": "string", "description": "Whose fault it is."},
                    "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                    "code": {"type": ["string", "null"], "description": "The same for programs."},
                },
            }
        },
    },
    "AnthropicError": {
        "type": "object",
        "required": ["type", "error", "request_id"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _TEXT, "message": {"type": "string", "minLength": 1}},
            },
            "request_id": _TEXT,
        },
    },
}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes `model` as JSON."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, models: list[type[BaseModel]]) -> None:
    """Put the schemas of `models`, to which `json_body` refers, examples, errors and streams into /openapi.json."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
            _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own answer, which no route gives
                schemas.pop(unused, None)
            schemas.update(definitions["$defs"] | _ERRORS)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _describe(path, method, operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    """What FastAPI cannot see of a route: its name, examples, keys, and what it answers beside its own 200."""
    if operation["operationId"].endswith(f"_{method}"):  # FastAPI's: the function's name, the path and the method
        operation["operationId"] = operation["summary"].lower().replace(" ", "_")
    answers = operation["responses"]
    answers.pop("422", None)
    example = EXAMPLES[f"{method.upper()} {path}"]
    body = operation.get("requestBody")
    if body is not None and example.request is not None:
        body["content"]["application/json"]["example"] = example.request
    kind = "application/json" if isinstance(example.response, dict) else _KINDS.get(path, "text/plain")
    answers["200"] = {"description": "Done."}
    if example.response is not None:
        answers["200"]["content"] = {kind: {"schema": _OBJECT if kind == "application/json" else _TEXT}}
        answers["200"]["content"][kind]["example"] = example.response
    if path in _STREAMED and body is not None:
        answers["200"]["content"]["text/event-stream"] = {}
    error = "AnthropicError" if path.startswith(_ANTHROPIC) else "Error"
    content = {"application/json": {"schema": {"$ref": _REF.format(model=error)}}}
    open_to_all = path in OPEN_PATHS
    if open_to_all:
        operation["security"] = []
    else:
        operation["security"] = [{"key": []}, {}]  # none, where the server has no keys
    for status in _statuses(path, method, operation, open_to_all):
        answers[status] = {"description": _REFUSALS[status], "content": content}


def _statuses(path: str, method: str, operation: dict[str, Any], open_to_all: bool) -> list[str]:
    found = ["4XX", "5XX"]
    if "requestBody" in operation:
        found += ["400", "413", "415"]
    if "{" in path or "requestBody" in operation:
        found += ["404"]
    if not open_to_all:
        found += ["401"]
    if path.startswith("/admin"):
        found += ["403"]
    if path.startswith(("/v1/files", "/v1/batches")) and method != "get":
        found += ["409"]
    if method == "post" and not path.startswith("/admin"):
        found += ["429", "503"]
    if path in ("/health", "/ping", "/ready"):
        found += ["503"]
    return sorted(found)
