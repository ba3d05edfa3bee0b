"""Every way to be refused has OpenAI's error body, a status of its own and a request id."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from yardmaster.engine.messages import RequestOutput
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.http.refusals import CHAT, HELLO, JSON, refused, send

KEY = "sk-secret-0123456789"


def test_routes_and_methods(plain: Any) -> None:
    app = plain.app()
    refused(send(app, "GET", "/nope"), 404, "unknown_url")
    refused(send(app, "POST", "/v1/models/"), 405, "method_not_allowed")
    response = send(app, "GET", CHAT)
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    refused(send(app, "GET", "/v1/models/none"), 404, "model_not_found", "model")
    refused(send(app, "POST", CHAT, json={"messages": HELLO, "model": "x"}), 404, "model_not_found", "model")


def test_keys(plain: Any) -> None:
    app = plain.app(api_keys=("another-key-1", KEY))
    for headers in (
        {},
        {"authorization": KEY},
        {"authorization": "Basic " + KEY},
        {"authorization": "Bearer"},
        {"authorization": "Bearer " + KEY[:-1]},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": b"Bearer \xff\xfe"},
    ):
        response = send(app, "POST", CHAT, json={"messages": HELLO}, headers=headers)
        message = refused(response, 401, "invalid_api_key")
        assert KEY not in message
        assert response.headers["www-authenticate"] == "Bearer"
    two = [("authorization", "Bearer " + KEY), ("authorization", "Bearer wrong-key")]
    refused(send(app, "GET", "/v1/models", headers=two), 401, "invalid_api_key")
    refused(send(app, "GET", "/nope"), 401, "invalid_api_key")
    refused(send(app, "POST", "/tokenize", json={"prompt": "a"}), 401, "invalid_api_key")
    for key in ("another-key-1", KEY):
        assert send(app, "GET", "/v1/models", headers={"authorization": "bearer " + key}).status_code == 200
    for path in ("/health", "/ready", "/ping", "/version", "/metrics", "/openapi.json"):
        assert send(app, "GET", path).status_code == 200, path


def test_config_refuses_an_open_door() -> None:
    for host in ("0.0.0.0", "::", "example.org", "10.1.2.3"):
        with pytest.raises(ValueError, match=r"--no-auth"):
            HttpConfig(("m",), host=host)
        HttpConfig(("m",), host=host, no_auth=True)
        HttpConfig(("m",), host=host, api_keys=(KEY,))
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"):
        HttpConfig(("m",), host=host)
    for keys in (("short",), ("",), ("has spaces in it",), ("schlüssel-lang",), (KEY, "")):
        with pytest.raises(ValueError, match=r"--api-key"):
            HttpConfig(("m",), api_keys=keys)
    assert KEY not in repr(HttpConfig(("m",), api_keys=(KEY,)))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonx"},
        JSON | {"content-encoding": "gzip"},
    ],
)
def test_media_types(plain: Any, headers: dict[str, str]) -> None:
    refused(send(plain.app(), "POST", CHAT, content=b'{"messages":[]}', headers=headers), 415, "unsupported_media_type")


def test_sizes(plain: Any) -> None:
    app = plain.app(max_body_bytes=1000, max_header_bytes=2000)
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 900}]}).encode()
    assert len(body) < 1000
    assert send(app, "POST", CHAT, content=body, headers=JSON).status_code == 200
    response = send(app, "POST", CHAT, content=body + b" " * 1000, headers=JSON)
    refused(response, 413, "request_too_large")
    assert response.headers["connection"] == "close"

    async def chunks() -> Any:
        for _ in range(1000):
            yield b" " * 100

    refused(send(app, "POST", CHAT, content=chunks(), headers=JSON), 413, "request_too_large")
    refused(
        send(app, "POST", CHAT, content=body, headers=JSON | {"content-length": "9" * 30}), 413, "request_too_large"
    )
    refused(send(app, "GET", "/health", headers={"x": "y" * 2000}), 431, "headers_too_large")
    refused(send(app, "GET", "/health?" + "y" * 2000), 431, "headers_too_large")


WRONG = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [*HELLO, {"role": "user", "content": 7}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0]"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 1e400}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 10**30}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 10**4000}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 3.0}, "max_tokens"),
    ({"max_tokens": 10**20}, "max_tokens"),
    ({"max_tokens": 1, "min_tokens": 2}, "min_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 10**9}, "n"),
    ({"n": "2"}, "n"),
    ({"stop": ""}, "stop"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "x" * 1025}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1, 10**6]}, "stop_token_ids[1]"),
    ({"stop_token_ids": list(range(257))}, "stop_token_ids"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"٣": 1}}, "logit_bias"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"reasoning_effort": "max"}, "reasoning_effort"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"__class__": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ({"user": "u" * 1025}, "user"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[f"{at}-{param}" for at, (_, param) in enumerate(WRONG)])
def test_wrong_fields_are_named(plain: Any, body: dict[str, Any], param: str) -> None:
    raw = json.dumps({"messages": HELLO} | body).encode()
    refused(send(plain.app(), "POST", CHAT, content=raw, headers=JSON), 400, "invalid_value", param)
    assert plain.engine.submitted == []


def test_missing_fields_are_named(plain: Any) -> None:
    app = plain.app()
    for path, body, param in (
        (CHAT, {}, "messages"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ("/v1/completions", {}, "prompt"),
        ("/detokenize", {}, "tokens"),
    ):
        refused(send(app, "POST", path, json=body), 400, "missing_required_parameter", param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("use_beam_search", True),
        ("chat_template", "{{ 1 }}"),
        ("guided_decoding_backend", "outlines"),
        ("guided_whitespace_pattern", " "),
        ("structural_tag", "{}"),
        ("logits_processors", ["x"]),
        ("length_penalty", 0.5),
        ("echo", True),
        ("verbosity", "low"),
        ("spaces_between_special_tokens", False),
        ("return_tokens_as_token_ids", True),
        ("kv_transfer_params", {"a": 1}),
        ("thinking_token_budget", 5),
        ("prompt_embeds", "x"),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("function_call", "auto"),
        ("suffix", "x"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(plain: Any, field: str, value: Any) -> None:
    response = send(plain.app(), "POST", CHAT, json={"messages": HELLO, field: value})
    refused(response, 400, "unsupported_parameter", field)


def test_images_and_audio_are_refused_and_not_fetched(plain: Any) -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "nonsense"},
    ):
        messages = [*HELLO, {"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
        response = send(plain.app(), "POST", CHAT, json={"messages": messages})
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith("messages[1].content[1]")


def test_a_model_without_template_has_no_chat(plain: Any) -> None:
    plain.template = None
    refused(send(plain.app(), "POST", CHAT, json={"messages": HELLO}), 400, "unsupported_model", "messages")


def test_context_length(plain: Any) -> None:
    app, limit = plain.app(), plain.max_model_len
    code = "context_length_exceeded"
    message = refused(send(app, "POST", "/v1/completions", json={"prompt": "z" * (limit + 1)}), 400, code, "prompt")
    assert str(limit) in message
    assert str(limit + 1) in message
    refused(send(app, "POST", "/v1/completions", json={"prompt": [1] * limit}), 400, code, "prompt")
    body = {"prompt": [1] * 10, "max_tokens": limit - 9}
    refused(send(app, "POST", "/v1/completions", json=body), 400, code, "prompt")
    assert send(app, "POST", "/v1/completions", json=body | {"max_tokens": limit - 10}).status_code == 200
    long = [{"role": "user", "content": "z" * limit}]
    refused(send(app, "POST", CHAT, json={"messages": long}), 400, code, "messages")
    hopeless = [{"role": "user", "content": "z" * 2_000_000}]
    refused(send(app, "POST", CHAT, json={"messages": hopeless}), 400, code, "messages")
    refused(send(app, "POST", CHAT, json={"messages": HELLO, "max_tokens": limit}), 400, code, "messages")


def test_the_engine_says_no(plain: Any) -> None:
    app = plain.app()
    body = {"messages": HELLO, "n": 3}
    plain.engine.refuse = plain.EngineOverloaded("full: secret", 7)
    response = send(app, "POST", CHAT, json=body)
    assert "secret" not in refused(response, 503, "engine_overloaded")
    assert response.headers["retry-after"] == "7"
    plain.engine.refuse = plain.EngineDead("rank 3: secret")
    assert "secret" not in refused(send(app, "POST", CHAT, json=body), 503, "engine_dead")
    plain.engine.refuse = None
    plain.engine.ready = False
    response = send(app, "POST", CHAT, json=body | {"stream": True})
    refused(response, 503, "engine_loading")
    assert "retry-after" in response.headers
    assert send(app, "GET", "/health").status_code == 200
    refused(send(app, "GET", "/ready"), 503, "engine_loading")
    plain.engine.dead = "rank 3: secret"
    for path in ("/health", "/ready", "/ping"):
        assert "secret" not in refused(send(app, "GET", path), 503, "engine_dead")
    assert send(app, "GET", "/version").json()["version"]


def test_refused_midway_leaves_nothing_in_the_engine(plain: Any) -> None:
    """The third of five sequences finds the queue full."""
    submit = plain.engine.submit

    async def submit_two(request: Any) -> Any:
        if len(plain.engine.submitted) == 2:
            raise plain.EngineOverloaded("full")
        return await submit(request)

    plain.engine.submit = submit_two
    plain.engine.script = plain.say("never heard", pause=5)
    refused(send(plain.app(), "POST", CHAT, json={"messages": HELLO, "n": 5}), 503, "engine_overloaded")
    assert {each.request_id for each in plain.engine.submitted} <= set(plain.engine.aborted)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (lambda stage, submit: stage.EngineDead("rank 1: secret"), 503, "engine_dead"),
        (lambda stage, submit: RuntimeError("secret"), 500, "internal_error"),
        (
            lambda stage, submit: RequestOutput(request_id=submit.request_id, finish_reason="error", error="secret"),
            500,
            "internal_error",
        ),
        (
            lambda stage, submit: RequestOutput(request_id=submit.request_id, finish_reason="abort"),
            503,
            "engine_stopping",
        ),
    ],
)
def test_failure_midway(plain: Any, stream: bool, end: Any, status: int, code: str) -> None:
    def script(submit: Any) -> Any:
        yield RequestOutput(request_id=submit.request_id, token_ids=plain.ids("half"))
        yield 0.02
        if submit.request_id == plain.engine.submitted[0].request_id:
            yield end(plain, submit)
        yield 5.0

    plain.engine.script = script
    response = send(plain.app(), "POST", CHAT, json={"messages": HELLO, "stream": stream, "n": 2})
    assert "secret" not in response.text
    if not stream:
        refused(response, status, code)
    else:
        assert response.status_code == 200
        blocks = response.text.strip().split("\n\n")
        assert blocks[-1] == "data: [DONE]"
        error = json.loads(blocks[-2].removeprefix("data: "))["error"]
        assert (error["code"], error["type"]) == (code, "server_error")
        assert "half" in response.text
    assert plain.engine.submitted[1].request_id in plain.engine.aborted


def test_an_unforeseen_exception_tells_nothing(plain: Any, caplog: pytest.LogCaptureFixture) -> None:
    secret = "my prompt and my password"

    def explode(*_: Any) -> Any:
        raise RuntimeError(secret)

    plain.engine.submit = explode
    app = plain.app()
    with caplog.at_level(logging.DEBUG):
        response = send(app, "POST", CHAT, json={"messages": [{"role": "user", "content": secret}]})
    assert secret not in refused(response, 500, "internal_error")
    assert secret not in caplog.text
    assert response.headers["x-request-id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert secret not in send(app, "GET", "/metrics").text


def test_request_ids(plain: Any) -> None:
    app = plain.app()
    given = {"abc-123": "abc-123", "a b\tc{}\u00e9": "abc", "x" * 500: "x" * 128, "$$$": None}
    for value, expected in given.items():
        returned = send(app, "GET", "/health", headers={"x-request-id": value.encode("latin-1")}).headers[
            "x-request-id"
        ]
        assert returned == expected if expected else len(returned) == 32
    ids = {send(app, "GET", "/nope").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
