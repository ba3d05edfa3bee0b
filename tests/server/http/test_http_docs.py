"""The documentation: /openapi.json and /docs are whole, examples are true, and docs/ has every field and route."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from yardmaster.server.batch.config import BatchConfig
from yardmaster.server.batch.runner import running
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.http.app import create_app
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.http.docs_page import page
from yardmaster.server.http.examples import EXAMPLES
from yardmaster.server.http.middleware import OPEN_PATHS
from yardmaster.server.http.schema.batches import BatchRequest
from yardmaster.server.http.schema.chat import ChatRequest
from yardmaster.server.http.schema.completions import CompletionRequest
from yardmaster.server.http.schema.fields import IGNORED, NOT_OFFERED
from yardmaster.server.http.schema.tokenize import DetokenizeRequest, TokenizeRequest
from yardmaster.server.messages.schema import CountTokensRequest, MessagesRequest
from yardmaster.server.responses.schema import NOT_OFFERED as RESPONSES_NOT_OFFERED
from yardmaster.server.responses.schema import Conversation, ResponsesRequest

BODIES = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/responses/input_tokens": Conversation,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
    "/v1/batches": BatchRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
DOCS = Path(__file__).parents[3] / "docs"
KEY = {"authorization": "Bearer alices-key-1"}


class House:
    """A server with everything that it can have."""

    def __init__(self, stage: Any, folder: Path) -> None:
        (folder / "keys.yaml").write_text("keys: [{name: alice, key: alices-key-1, admin: true}]")
        self.keys = Keyring(folder / "keys.yaml")
        self.service = stage.service()
        self.config = HttpConfig(("gpt-oss-20b",), keys_file="-", batch=BatchConfig(str(folder / "batches"), poll=60))

    def ask(self, *questions: Any) -> list[httpx.Response]:
        """`questions`: (method, path, options), or a function from the answers so far to such."""

        async def go() -> list[httpx.Response]:
            async with running(self.service, self.config, asyncio.Event()) as store:
                app = create_app(self.service, self.config, self.keys, store)
                self.document = app.openapi()
                answers: list[httpx.Response] = []
                transport = httpx.ASGITransport(app, raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    for question in questions:
                        method, path, options = question(answers) if callable(question) else question
                        answers.append(await client.request(method, path, **options))
                return answers

        return asyncio.run(go())


@pytest.fixture
def house(harmony: Any, tmp_path: Path) -> House:
    said = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>"
    call = 'commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Ulm"}'

    def script(submit: Any) -> Any:
        asked = harmony.tokenizer.decode(submit.prompt_token_ids, False)
        spoken = said + (call if "get_weather" in asked else "final<|message|>4")
        return harmony.say(spoken if asked.startswith("<|start|>") else " time there was")(submit)

    harmony.engine.script = script
    return House(harmony, tmp_path)


@pytest.fixture
def document(house: House) -> Any:
    house.ask()
    return house.document


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_is_sound(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert not any("__" in name for name in schemas), "two classes of one name"
    identities = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(identities)) == len(identities)
    assert all(re.fullmatch("[a-z_]+", identity) for identity in identities)
    for path, method, operation in operations(document):
        assert operation["tags"]
        assert operation["summary"]
        assert len(operation["description"]) > 5, path
        declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))
        answers = operation["responses"]
        assert all(answer["description"] for answer in answers.values())
        for schema in (
            content.get("schema", {}) for answer in answers.values() for content in answer.get("content", {}).values()
        ):
            Draft202012Validator.check_schema(schema)
        assert ("401" in answers) == (path not in OPEN_PATHS) == bool(operation["security"])
        if "requestBody" in operation:
            assert {"400", "401", "404", "413", "415", "4XX", "5XX"} <= set(answers)
        if method == "post" and path in BODIES:
            assert {"429", "503"} <= set(answers)
        error = "AnthropicError" if path.startswith("/v1/messages") else "Error"
        assert answers["4XX"]["content"]["application/json"]["schema"]["$ref"].endswith("/" + error)


def test_every_field_is_described(document: Any) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, value in schema.get("properties", {}).items():
            assert "const" in value or "description" in value or name.endswith("Error"), f"{name}.{field}"


def test_every_route_has_an_example_that_its_body_takes(document: Any) -> None:
    found = {f"{method.upper()} {path}" for path, method, _ in operations(document)}
    assert found == set(EXAMPLES)
    schemas = document["components"]["schemas"]
    for path, model in BODIES.items():
        request = EXAMPLES[f"POST {path}"].request
        model.model_validate_json(json.dumps(request))
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["example"] == request
        assert content["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}
        whole = {"$ref": f"#/components/schemas/{model.__name__}", "components": {"schemas": schemas}}
        Draft202012Validator(whole).validate(request)
        assert set(request) <= set(schemas[model.__name__]["properties"])


def shape(example: Any, answer: Any, at: str) -> None:
    """All that the example has, the answer has, of the same type."""
    assert (example is None) or (answer is None) or isinstance(answer, type(example)), (at, example, answer)
    if isinstance(example, dict) and at.rpartition(".")[2] not in ("metadata", "rejected"):
        for name, value in example.items():
            assert name in answer, f"{at}.{name}"
            shape(value, answer[name], f"{at}.{name}")
    elif isinstance(example, list) and example and at.rpartition(".")[2] != "output":
        assert answer, at
        shape(example[0], answer[0], f"{at}[0]")


def test_examples_are_what_the_server_answers(house: House) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
    form = {"files": {"file": ("in.jsonl", json.dumps(line))}, "data": {"purpose": "batch"}}
    plan: list[tuple[str, Any]] = []

    def ask(example: str, path: str = "", identity: str = "", **options: Any) -> None:
        """`identity`: the example whose answer's id stands in the path."""
        method, _, template = example.partition(" ")
        request = EXAMPLES[example].request

        def question(answers: list[httpx.Response]) -> tuple[str, str, Any]:
            where, more = path or template, dict(options)
            if identity:
                place = [name for name, _ in plan].index(identity)
                where = re.sub("{[a-z_]+}", answers[place].json()["id"], where)
            if request is not None:
                more["json"] = dict(request)
                if "tokens" in request:
                    more["json"]["tokens"] = [70]  # this vocabulary is small
                if "input_file_id" in request:
                    more["json"]["input_file_id"] = answers[[name for name, _ in plan].index("POST /v1/files")].json()[
                        "id"
                    ]
            return method, where, {"headers": KEY} | more

        plan.append((example, question))

    ask("POST /v1/files", **form)
    for path in BODIES:
        ask(f"POST {path}")
    ask("GET /v1/models")
    ask("GET /v1/models/{model}", path="/v1/models/gpt-oss-20b")
    ask("GET /v1/files")
    for example in ("GET /v1/files/{file_id}", "GET /v1/files/{file_id}/content"):
        ask(example, identity="POST /v1/files")
    ask("GET /v1/batches")
    ask("GET /v1/batches/{batch_id}", identity="POST /v1/batches")
    ask("POST /v1/batches/{batch_id}/cancel", identity="POST /v1/batches")
    ask("GET /v1/responses/{response_id}", identity="POST /v1/responses")
    ask("GET /v1/responses/{response_id}/input_items", identity="POST /v1/responses")
    ask("DELETE /v1/responses/{response_id}", identity="POST /v1/responses")
    for path in ("/health", "/ping", "/ready", "/version", "/metrics"):
        ask(f"GET {path}", headers={})
    for example in ("GET /admin/keys", "POST /admin/keys/reload", "POST /admin/drain", "DELETE /admin/drain"):
        ask(example)
    for (example, _), answer in zip(plan, house.ask(*(question for _, question in plan)), strict=True):
        assert answer.status_code == 200, (example, answer.text)
        method, _, path = example.partition(" ")
        told = house.document["paths"][path][method.lower()]["responses"]["200"].get("content", {})
        assert not told or answer.headers["content-type"].partition(";")[0] in told, example
        expected = EXAMPLES[example].response
        if isinstance(expected, dict):
            shape(expected, answer.json(), example)
            if example in ("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models"):
                assert set(answer.json()) == set(expected)
    untested = {"DELETE /v1/files/{file_id}", "POST /v1/responses/{response_id}/cancel"}
    assert {example for example, _ in plan} == set(EXAMPLES) - untested


def test_the_page(house: House) -> None:
    answer, document = house.ask(("GET", "/docs", {}), ("GET", "/openapi.json", {}))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    html = answer.text
    for foreign in ("<script", "http:", "https:", "src=", "@import", "url("):
        assert foreign not in html
    anchors = re.findall(r'id="([^"]+)"', html)
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(anchors)
    for path, method, _ in operations(document.json()):
        assert f"<code>{method.upper()} {path}</code>" in html
    for schema in document.json()["components"]["schemas"].values():
        for field in schema.get("properties", {}):
            assert f"<code>{field}</code>" in html
    assert "/docs" not in document.json()["paths"]


def test_the_page_shows_text_as_text() -> None:
    evil = "<img onerror=x>&"
    schema = {"type": "object", "properties": {evil: {"type": "string", "description": evil, "enum": [evil]}}}
    document = {
        "info": {"title": evil, "version": "1", "description": evil},
        "paths": {
            "/x": {"get": {"operationId": "x", "description": evil, "responses": {"200": {"description": evil}}}}
        },
        "components": {"schemas": {evil: schema}},
    }
    assert "<img" not in page(document)
    assert "&lt;img onerror=x&gt;&amp;" in page(document)


OPENAI = """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
    messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options best_of echo prompt suffix"""


def named(text: str) -> set[str]:
    return set(re.findall(r"`([A-Za-z_]+)`", text))


def test_the_tables_have_every_field() -> None:
    api, responses, messages, batches = (
        (DOCS / f"{name}.md").read_text() for name in ("api", "responses", "messages", "batches")
    )
    both = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *NOT_OFFERED, *IGNORED, *OPENAI.split()}
    both |= {*TokenizeRequest.model_fields, *DetokenizeRequest.model_fields}
    assert both - named(api) == set()
    ours = {*ResponsesRequest.model_fields, *RESPONSES_NOT_OFFERED}
    assert ours - named(responses) - {"model"} == set()
    assert set(MessagesRequest.model_fields) - named(messages) == set()
    assert set(BatchRequest.model_fields) - named(batches) == set()
    rows = [
        line.split("|")[1:4]
        for line in api.splitlines()
        if re.match(r"\| `[a-z_]+`.* \| (yes|differs|ignored|refused) \|", line)
    ]
    status = {name: kind.strip() for names, kind, _ in rows for name in named(names)}
    for name in both - {"messages"}:
        assert name in status, f"{name} has no row"
    for name in NOT_OFFERED:
        if name not in {*ChatRequest.model_fields, *CompletionRequest.model_fields}:
            assert status[name] == ("ignored" if name == "watermarking" else "refused"), name
    for name in IGNORED:
        assert status[name] == "ignored", name


def test_the_tables_have_every_route(document: Any) -> None:
    text = "".join((DOCS / f"{name}.md").read_text() for name in ("api", "responses", "messages", "batches", "keys"))
    for path in (*document["paths"], "/docs", "/openapi.json"):
        shown = re.sub("{[a-z]+_id}", "ID", path).replace("{model}", "NAME")
        assert shown in text, shown
