"""Bodies that are no JSON, too large or of too many values: refused in little time, and nothing gets a 500."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest
from pydantic import BaseModel, ValidationError

from yardmaster.server.http import body
from yardmaster.server.http.body import explain
from yardmaster.server.http.schema.batches import BatchRequest
from yardmaster.tests.server.http.refusals import CHAT, HELLO, JSON, refused, send


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b"{'messages': []}",
        b'{"messages":' + b"[" * 30_000,
        b'{"x":' + b'{"a":' * 30_000 + b"1" + b"}" * 30_000 + b"}",
        b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"\\udc00\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"\x00"}]}',
        b'\xef\xbb\xbf{"messages":[]}',
        b'{"messages":[],"messages":',
    ],
)
def test_what_is_not_json(plain: Any, raw: bytes) -> None:
    refused(send(plain.app(), "POST", CHAT, content=raw, headers=JSON), 400, "invalid_json")


@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'"x"', b"true"])
def test_json_that_is_no_object(plain: Any, raw: bytes) -> None:
    refused(send(plain.app(), "POST", CHAT, content=raw, headers=JSON), 400, "invalid_value")


def test_too_many_at_once(plain: Any) -> None:
    plain.engine.script = plain.say("slow", pause=0.05)
    app = plain.app(max_requests=2)

    async def go() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answers: list[httpx.Response] = []

            async def one() -> None:
                answers.append(await client.post(CHAT, json={"messages": HELLO}))

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(one)
            return answers

    answers = anyio.run(go)
    assert sorted(each.status_code for each in answers) == [200, 200, 503, 503, 503]
    busy = next(each for each in answers if each.status_code == 503)
    refused(busy, 503, "server_busy")
    assert busy.headers["retry-after"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [[1]] * 1_000_000},
        {"prompt": [1] * 1_000_000},
        {"prompt": ["a"] * 1_000_000},
        {"prompt": [1.5] * 1_000_000},
    ],
    ids=["id lists", "ids", "texts", "floats"],
)
def test_a_million_elements(plain: Any, body: Any) -> None:
    response = send(plain.app(), "POST", "/v1/completions", json=body)
    refused(response, 413, "request_too_large")
    assert len(response.content) < 1000


def test_duplicate_keys_the_last_one_rules(plain: Any) -> None:
    raw = b'{"messages":5,"messages":[{"role":"user","content":"x"}],"temperature":9e9,"temperature":0.5}'
    assert send(plain.app(), "POST", CHAT, content=raw, headers=JSON).status_code == 200
    assert plain.engine.submitted[0].params.temperature == 0.5


HEAD = b'{"messages":[{"role":"user","content":"hi"}],"metadata":{"a":['
MANY = ((8 << 20) - len(HEAD) - 8) // 3


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"[]," * MANY + b"1]}}",
        HEAD + b"{}," * MANY + b"1]}}",
        HEAD + b"1," * MANY + b"1]}}",
        HEAD + b'"",' * MANY + b"1]}}",
    ],
    ids=["lists", "objects", "integers", "strings"],
)
def test_millions_of_little_values_are_refused_unparsed(plain: Any, raw: bytes) -> None:
    """To parse them would take the event loop a second or more."""
    message = refused(send(plain.app(), "POST", CHAT, content=raw, headers=JSON), 413, "request_too_large")
    assert "more than" in message


def test_millions_of_little_values_as_arguments(plain: Any) -> None:
    call = {"function": {"name": "f", "arguments": '{"a":[' + "[]," * 30_000 + "1]}"}}
    body = {"messages": [*HELLO, {"role": "assistant", "tool_calls": [call, call]}]}
    param = "messages[1].tool_calls[1].function.arguments"
    refused(send(plain.app(), "POST", CHAT, json=body), 400, "invalid_value", param)


@pytest.mark.parametrize(
    "prompt",
    [[200] * 131_072, 'a [b] {c}, "d" ' * 60_000, "\u00e9\U0001f600, " * 100_000],
    ids=["ids", "text", "unicode"],
)
def test_a_large_honest_prompt_is_read(plain: Any, prompt: Any) -> None:
    plain.engine.max_model_len = 1 << 24
    response = send(plain.app(), "POST", "/v1/completions", json={"prompt": prompt, "max_tokens": 1})
    assert response.status_code == 200
    assert response.json()["usage"]["prompt_tokens"] >= 131_072


BAD = {f"{place:012d}": 1e9 for place in range(5000)}


@pytest.mark.parametrize(("path", "field", "most"), [(CHAT, "logit_bias", 1024), ("/v1/responses", "metadata", 16)])
def test_thousands_of_bad_entries_are_one_error(plain: Any, path: str, field: str, most: int) -> None:
    response = send(plain.app(), "POST", path, json={"messages": HELLO, "input": "hi", field: BAD})
    message = refused(response, 400, "invalid_value", field)
    assert message == f"{field}: must have at most {most} entries, has {len(BAD)}"
    batch = {"input_file_id": "f", "endpoint": CHAT, "completion_window": "24h", "metadata": BAD}
    with pytest.raises(ValidationError) as caught:
        BatchRequest.model_validate_json(json.dumps(batch))
    assert caught.value.error_count() == 1


def test_of_many_errors_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    class Many(BaseModel):
        numbers: list[int]

    raw, looked = json.dumps({"numbers": ["x"] * 5000}).encode(), []
    path = body._path
    monkeypatch.setattr(body, "_path", lambda *arguments, **options: (looked.append(1), path(*arguments, **options))[1])
    with pytest.raises(ValidationError) as caught:
        Many.model_validate_json(raw)
    assert explain(caught.value, raw).param == "numbers[0]"
    assert len(looked) <= 256


def test_prompt_logprobs_out_of_measure(plain: Any) -> None:
    plain.engine.max_model_len = 1 << 17
    for extra, param in (({"prompt_logprobs": 20}, "prompt_logprobs"), ({"echo": True, "logprobs": 5}, "logprobs")):
        body = {"prompt": [[200] * 6000] * 4, "max_tokens": 1} | extra
        assert "exceed 131072" in refused(
            send(plain.app(), "POST", "/v1/completions", json=body), 400, "invalid_value", param
        )
    body = {"messages": [{"role": "user", "content": "z" * 10_000}], "prompt_logprobs": 6, "n": 2}
    refused(send(plain.app(), "POST", CHAT, json=body), 400, "invalid_value", "prompt_logprobs")
