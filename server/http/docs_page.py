"""/docs: all of /openapi.json for people, as one page of plain HTML. Nothing is loaded for it and no script runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Response

Json = dict[str, Any]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: #8881; overflow-x: auto; padding: .6rem .8rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #8884; padding: .25rem .6rem .25rem 0; text-align: left; vertical-align: top; }
h3 { margin-top: 2.5rem; }
:root { color-scheme: light dark; }
"""
_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


def router(document: Callable[[], Json]) -> APIRouter:
    """`document`: /openapi.json. The page is made when it is first asked for."""
    routes = APIRouter()
    pages: list[str] = []

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """This documentation."""
        if not pages:
            pages.append(await asyncio.to_thread(page, document()))
        return Response(pages[0], media_type="text/html; charset=utf-8", headers=_HEADERS)

    return routes


def page(document: Json) -> str:
    return "\n".join(_lines(document))


def _lines(document: Json) -> Iterator[str]:
    info, schemas = document["info"], document["components"]["schemas"]
    title = escape(f"{info['title']} {info['version']}")
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    yield f"<h1>{title}</h1><p>{escape(info['description'])}"
    yield 'For programs: <a href="/openapi.json">/openapi.json</a>.</p>'
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    yield "<table>"
    for path, method, operation in operations:
        link = f'<a href="#{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></a>'
        yield f"<tr><td>{link}<td>{_text(operation)}"
    yield "</table><h2>Routes</h2>"
    for path, method, operation in operations:
        yield from _operation(path, method, operation)
    yield "<h2>Bodies</h2>"
    for name, schema in sorted(schemas.items()):
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{_text(schema)}</p>'
        yield from _fields(schema)


def _operation(path: str, method: str, operation: Json) -> Iterator[str]:
    yield f'<h3 id="{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></h3>'
    yield f"<p>{_text(operation)}</p>"
    if "parameters" in operation:
        yield "<table>"
        for each in operation["parameters"]:
            yield f"<tr><td><code>{escape(each['name'])}</code> in the {each['in']}<td>{_type(each['schema'])}"
        yield "</table>"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body, {escape(kind)}: {_type(content['schema'])}</p>"
        yield from _fields(content["schema"])
        yield from _example(content)
    yield "<table>"
    for status, answer in operation["responses"].items():
        kinds = ", ".join(map(escape, answer.get("content", {})))
        yield f"<tr><td>{status}<td>{escape(answer['description'])}<td>{kinds}"
    yield "</table>"
    for content in operation["responses"]["200"].get("content", {}).values():
        yield from _example(content)


def _example(content: Json) -> Iterator[str]:
    if "example" in content:
        example = content["example"]
        shown = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
        yield f"<pre>{escape(shown)}</pre>"


def _fields(schema: Json) -> Iterator[str]:
    if "properties" in schema:
        required = schema.get("required", ())
        yield "<table>"
        for name, field in schema["properties"].items():
            must = " (required)" if name in required else ""
            yield f"<tr><td><code>{escape(name)}</code>{must}<td>{_type(field)}<td>{_text(field)}"
        yield "</table>"


def _text(described: Mapping[str, Any]) -> str:
    return escape(described.get("description", ""))


def _type(schema: Json) -> str:
    """In a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[key])))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema)}"
    kinds = schema.get("type", "anything")
    return (kinds if isinstance(kinds, str) else " or ".join(kinds)) + _bounds(schema)


_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "≥ {} characters",
    "maxLength": "≤ {} characters",
    "minItems": "≥ {}",
    "maxItems": "≤ {}",
    "maxProperties": "≤ {} fields",
}


def _bounds(schema: Json) -> str:
    found = ", ".join(words.format(schema[name]) for name, words in _BOUNDS.items() if name in schema)
    return f" ({found})" if found else ""
