"""Whatever JSON comes, nothing gets a 500, and the documentation is whole."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.http.schema.chat import ChatRequest
from yardmaster.server.http.schema.completions import CompletionRequest
from yardmaster.server.http.schema.fields import NOT_OFFERED

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([0, 1, 2, "a", "user", 1e9]),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *NOT_OFFERED} - {"stream"}))
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system"]), "content": ANYTHING}),
    max_size=3,
)
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(path=PATHS, fields=st.dictionaries(NAMES, ANYTHING, max_size=3), messages=MESSAGES, valid=st.booleans())
def test_no_body_is_an_accident(harmony: Any, path: str, fields: Any, messages: Any, valid: bool) -> None:
    base = {"messages": [{"role": "user", "content": "hi"}]} if valid else {"messages": messages}
    body = (base if "chat" in path else {"prompt": "a", "tokens": [1]}) | fields
    raw = json.dumps(body).encode()

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, content=raw, headers={"content-type": "application/json"})

    app = harmony.app()
    response = anyio.run(send)
    assert response.status_code in (200, 400, 404), (raw, response.text)
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_documentation(plain: Any) -> None:
    document = plain.app().openapi()

    def references(node: Any) -> Any:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                yield from references(each)

    found = set(references(document))
    assert "#/components/schemas/ChatRequest" in found
    for each in found:
        assert each.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/health"} <= document["paths"].keys()
