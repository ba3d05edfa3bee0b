"""Log-probabilities of answers: how many there may be, and that many of them are worded beside the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from yardmaster.engine.messages import RequestOutput, TokenLogprob
from yardmaster.server.http import chat, completions, sampling, stream
from yardmaster.server.http.logprobs import FEW
from yardmaster.server.responses import maker, runs
from yardmaster.tests.server.http.refusals import CHAT, HELLO, refused, send

TEXT, RESPONSES = "/v1/completions", "/v1/responses"
INCLUDE = {"include": ["message.output_text.logprobs"]}


def scored(stage: Any, count: int, size: int = 1, finish: str | None = "length") -> Callable[[Any], Iterator[Any]]:
    """A model that says `x` so many times, `size` tokens an output."""
    (token,) = stage.ids("x")

    def script(submit: Any) -> Iterator[Any]:
        for at in range(0, count, size):
            now = min(size, count - at)
            yield RequestOutput(
                request_id=submit.request_id,
                token_ids=[token] * now,
                logprobs=[TokenLogprob(token, -0.5, 1, [(token, -0.5), (1, -9.0), (2, -9.5)])] * now,
                finish_reason=finish if at + size >= count else None,  # type: ignore[arg-type]
            )
        if finish is None:
            yield 30.0

    return script


def asked(path: str, top: int, **fields: Any) -> dict[str, Any]:
    if path == TEXT:
        return {"prompt": "hi", "logprobs": top, **fields}
    if path == CHAT:
        return {"messages": HELLO, "logprobs": True, "top_logprobs": top, **fields}
    return {"input": "hi", **INCLUDE, "top_logprobs": top, **fields}


@pytest.mark.parametrize(
    ("path", "field"), [(CHAT, "max_tokens"), (TEXT, "max_tokens"), (RESPONSES, "max_output_tokens")]
)
def test_more_than_may_be_is_refused(plain: Any, path: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_LOGPROBS", 60)
    plain.engine.script = scored(plain, 3)
    n = {} if path == RESPONSES else {"n": 2}
    most = 60 // 3 // n.get("n", 1)
    assert send(plain.app(), "POST", path, json=asked(path, 2, **{field: most}, **n)).status_code == 200
    param = "logprobs" if path == TEXT else "top_logprobs"
    message = refused(
        send(plain.app(), "POST", path, json=asked(path, 2, **{field: most + 1}, **n)), 400, "invalid_value", param
    )
    assert f"answers of {most + 1} tokens times 3 exceed 60 log-probabilities" in message
    assert send(plain.app(), "POST", path, json={**asked(path, 0), field: most + 1} | n).status_code == 200


def test_prompts_count_as_answers(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_LOGPROBS", 60)
    body = {"prompt": ["a", "b", "c"], "logprobs": 1, "max_tokens": 11}
    refused(send(plain.app(), "POST", TEXT, json=body), 400, "invalid_value", "logprobs")


def test_ordinary_requests_are_taken(plain: Any) -> None:
    plain.engine.max_model_len = 1 << 17
    plain.engine.script = scored(plain, 3)
    for body in (asked(CHAT, 5), asked(CHAT, 20), asked(CHAT, 5, n=8), asked(CHAT, 1, n=16, max_tokens=1 << 15)):
        assert send(plain.app(), "POST", CHAT, json=body).status_code == 200
    assert plain.engine.submitted[0].params.max_tokens > 100_000
    body = asked(TEXT, 5, max_tokens=2048) | {"prompt": ["x"] * 128}
    assert send(plain.app(), "POST", TEXT, json=body).status_code == 200


@pytest.mark.parametrize(("size", "finish"), [(1, None), (7, None), (1, "length"), (100, "stop")])
def test_without_a_length_of_its_own_an_answer_ends_there(
    plain: Any, monkeypatch: pytest.MonkeyPatch, size: int, finish: str | None
) -> None:
    monkeypatch.setattr(sampling, "MAX_LOGPROBS", 60)
    plain.engine.script = scored(plain, 50, size, finish)
    answer = send(plain.app(), "POST", CHAT, json=asked(CHAT, 2, n=2)).json()
    for choice in answer["choices"]:
        assert (choice["message"]["content"], choice["finish_reason"]) == ("x" * 10, "length")
        assert len(choice["logprobs"]["content"]) == 10
    assert answer["usage"]["completion_tokens"] == 20
    if finish is None or size == 1:
        assert len(plain.engine.aborted) == 2
    response = send(plain.app(), "POST", RESPONSES, json=asked(RESPONSES, 2)).json()
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("incomplete", "x" * 20)
    plain.engine.script = scored(plain, 10, size, "stop")
    answer = send(plain.app(), "POST", CHAT, json=asked(CHAT, 2, n=2)).json()
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "stop"]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[bool]]:
    """By what was called: whether it was on the event loop's thread."""
    seen: dict[str, set[bool]] = {}

    def watch(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def outer(*arguments: Any, **options: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread() is threading.main_thread())
            return inner(*arguments, **options)

        monkeypatch.setattr(owner, name, outer)

    watch(chat, "chat_logprobs")
    watch(maker, "chat_logprobs")
    watch(completions.CompletionLogprobs, "take")
    watch(stream, "encode_json")
    watch(runs, "encode_resource")
    return seen


@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSES])
@pytest.mark.parametrize("count", [1, FEW + 1])
def test_many_are_worded_and_encoded_beside_the_loop(
    plain: Any, threads: dict[str, set[bool]], path: str, count: int
) -> None:
    plain.engine.script = scored(plain, count, size=count)
    field = "max_output_tokens" if path == RESPONSES else "max_tokens"
    body = asked(path, 1, **{field: 1000})
    expected = {
        CHAT: {"chat_logprobs", "encode_json"},
        TEXT: {"take", "encode_json"},
        RESPONSES: {"chat_logprobs", "encode_resource"},
    }
    assert send(plain.app(), "POST", path, json=body).status_code == 200
    assert threads == {name: {count == 1} for name in expected[path]}
    threads.clear()
    streamed = send(plain.app(), "POST", path, json=body | {"stream": True}).text
    assert streamed.count("-0.5") >= count
    assert all((count > 1) == (False in threads[name]) for name in expected[path])
