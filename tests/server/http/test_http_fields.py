"""The smaller fields of OpenAI and vLLM: each reaches the engine or the answer, or is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from yardmaster.engine.messages import RequestOutput

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hi"}]
ANSWER = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hello 🙂"


def post(stage: Any, body: dict[str, Any], path: str = CHAT) -> httpx.Response:
    asked = {"prompt": "hello world"} if path == TEXT else {"messages": HELLO}

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(stage.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=asked | body)

    return anyio.run(send)


def answered(stage: Any, body: dict[str, Any], path: str = CHAT) -> Any:
    response = post(stage, body, path)
    assert response.status_code == 200, response.text
    return response.json()


def chunks(stage: Any, body: dict[str, Any], path: str = CHAT) -> list[Any]:
    response = post(stage, body | {"stream": True}, path)
    assert response.status_code == 200, response.text
    return [json.loads(block[6:]) for block in response.text.split("\n\n")[:-2]]


def refused(response: httpx.Response, param: str) -> None:
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_allowed_and_bad(plain: Any, path: str) -> None:
    answered(plain, {"allowed_token_ids": [5, 7, 5], "bad_words": ["hello", " w", "xy"]}, path)
    params = plain.engine.submitted[-1].params
    assert params.allowed_token_ids == (5, 7)
    spelled = [*map(plain.ids, ("hello", " hello", "w", " w", "xy", " xy"))]
    assert params.bad_token_ids == tuple(map(tuple, spelled))
    assert len(plain.ids("hello")) == len(plain.ids(" w")) == 1 < len(plain.ids("xy"))
    answered(plain, {}, path)
    params = plain.engine.submitted[-1].params
    assert (params.allowed_token_ids, params.bad_token_ids) == (None, ())
    size = plain.tokenizer.vocab_size
    for body, param in (
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [1, size]}, "allowed_token_ids[1]"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids[0]"),
        ({"allowed_token_ids": [plain.eos], "min_tokens": 1}, "allowed_token_ids"),
        ({"bad_words": ["a", ""]}, "bad_words[1]"),
        ({"bad_words": ["a", " \n"]}, "bad_words[1]"),
        ({"bad_words": "a"}, "bad_words"),
        ({"bad_words": ["a"] * 257}, "bad_words"),
    ):
        refused(post(plain, body, path), param)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_token_ids_whole_and_streamed(harmony: Any, size: int) -> None:
    harmony.engine.script = harmony.say(ANSWER, size=size)
    expected = [*harmony.ids(ANSWER), harmony.eos]
    whole = answered(harmony, {"return_token_ids": True, "n": 2})
    assert [choice["token_ids"] for choice in whole["choices"]] == [expected] * 2
    assert whole["prompt_token_ids"] == harmony.engine.submitted[-1].prompt_token_ids
    assert "token_ids" not in json.dumps(answered(harmony, {}))
    news = chunks(harmony, {"return_token_ids": True, "n": 2})
    for index in range(2):
        mine = [choice for chunk in news for choice in chunk["choices"] if choice["index"] == index]
        assert [token for choice in mine for token in choice.get("token_ids", [])] == expected
    assert [chunk["prompt_token_ids"] for chunk in news if "prompt_token_ids" in chunk] == [whole["prompt_token_ids"]]
    assert "prompt_token_ids" in news[0]


@pytest.mark.parametrize("size", [1, 1000])
def test_token_ids_of_completions(plain: Any, size: int) -> None:
    plain.engine.script = plain.say("hello END more", size=size)
    body = {"prompt": ["a", "bc"], "return_token_ids": True, "stop": "END"}
    whole = answered(plain, body, TEXT)["choices"]
    seen = plain.ids("hello END")
    assert [choice["token_ids"] for choice in whole] == [seen] * 2
    assert [choice["prompt_token_ids"] for choice in whole] == [plain.ids("a"), plain.ids("bc")]
    ended = answered(plain, body | {"stop": None}, TEXT)["choices"][0]["token_ids"]
    assert ended == [*plain.ids("hello END more"), plain.eos]
    news = [choice for chunk in chunks(plain, body, TEXT) for choice in chunk["choices"]]
    for index in range(2):
        mine = [choice for choice in news if choice["index"] == index]
        assert [token for choice in mine for token in choice["token_ids"]] == seen
        assert [choice["prompt_token_ids"] for choice in mine if "prompt_token_ids" in choice] == [
            whole[index]["prompt_token_ids"]
        ]


def test_truncation_keeps_the_end(harmony: Any, plain: Any) -> None:
    answered(harmony, {})
    full = harmony.engine.submitted[-1].prompt_token_ids
    usage = answered(harmony, {"truncate_prompt_tokens": 5})["usage"]
    assert harmony.engine.submitted[-1].prompt_token_ids == full[-5:]
    assert usage["prompt_tokens"] == 5
    answered(harmony, {"truncate_prompt_tokens": len(full) + 1})
    assert harmony.engine.submitted[-1].prompt_token_ids == full
    limit = plain.max_model_len
    body = {"prompt": "z" * 3 * limit, "truncate_prompt_tokens": -1, "max_tokens": 100}
    answered(plain, body, TEXT)
    assert len(plain.engine.submitted[-1].prompt_token_ids) == limit - 100
    answered(plain, {"messages": [{"role": "user", "content": "z" * 3 * limit}], "truncate_prompt_tokens": -1})
    assert len(plain.engine.submitted[-1].prompt_token_ids) == limit - 1
    plain.engine.script = plain.say("!")
    echoed = answered(plain, {"prompt": "abcdef", "truncate_prompt_tokens": 2, "echo": True}, TEXT)
    assert echoed["choices"][0]["text"] == "ef!"
    for path, stage in ((CHAT, harmony), (TEXT, plain)):
        for wrong in (0, -2, limit, 10**12, 1.5):
            refused(post(stage, {"truncate_prompt_tokens": wrong}, path), "truncate_prompt_tokens")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_names_priorities_and_salts(plain: Any, path: str) -> None:
    body = {
        "request_id": "mine-1",
        "priority": -3,
        "cache_salt": "s",
        "prompt_cache_key": "k",
        "safety_identifier": "i",
    }
    assert answered(plain, body, path)["id"].endswith("cmpl-mine-1")
    answered(plain, body, path)
    one, two = plain.engine.submitted
    assert (one.priority, two.priority) == (-3, -3)
    assert one.request_id != two.request_id
    for name, value in (
        ("request_id", "a b"),
        ("request_id", ""),
        ("request_id", "x\n"),
        ("request_id", "x" * 129),
        ("priority", 1 << 20),
        ("priority", "high"),
        ("cache_salt", ""),
        ("include_metrics", 1),
    ):
        refused(post(plain, {name: value}, path), name)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_metrics_of_one_request(plain: Any, path: str) -> None:
    plain.engine.script = lambda submit: script(submit)

    def script(submit: Any) -> Any:
        for place, token in enumerate(plain.ids("abc")):
            yield 0.03
            yield RequestOutput(
                request_id=submit.request_id,
                token_ids=[token],
                finish_reason="length" if place == 2 else None,
                queue_seconds=waited if place == 0 else None,
            )

    waited = 5.0
    slow = answered(plain, {"include_metrics": True}, path)["metrics"]
    assert (slow["queue_time_ms"], slow["time_to_first_token_ms"]) == (5000, 0)  # another machine's clock
    waited = 0.01

    for metrics in (
        answered(plain, {"include_metrics": True}, path)["metrics"],
        chunks(plain, {"include_metrics": True}, path)[-1]["metrics"],
        chunks(plain, {"include_metrics": True, "stream_options": {"include_usage": True}}, path)[-1]["metrics"],
    ):
        assert set(metrics) == {
            "time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second",
        }  # fmt: skip
        assert metrics["queue_time_ms"] == 10
        assert 10 < metrics["time_to_first_token_ms"] < 2000
        assert 55 < metrics["generation_time_ms"] < 2000
        assert metrics["mean_itl_ms"] == pytest.approx(metrics["generation_time_ms"] / 2, abs=1e-3)
        seconds = (metrics["time_to_first_token_ms"] + metrics["generation_time_ms"]) / 1000
        assert metrics["tokens_per_second"] == pytest.approx(3 / seconds, rel=1e-3)
    assert "metrics" not in answered(plain, {}, path)
    assert "metrics" not in chunks(plain, {}, path)[-1]
    refused(post(plain, {"include_metrics": True, "n": 2}, path), "include_metrics")
    refused(post(plain, {"include_metrics": True, "prompt": ["a", "b"]}, TEXT), "include_metrics")


def test_a_refusal_sent_back_is_shown_to_the_model(harmony: Any, plain: Any) -> None:
    turns = [*HELLO, {"role": "assistant", "content": None, "refusal": "I will not."}, *HELLO]
    for stage in (harmony, plain):
        answered(stage, {"messages": turns})
        assert "I will not." in stage.tokenizer.decode(stage.engine.submitted[-1].prompt_token_ids, False)


def test_usage_as_it_grows(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER)
    whole = answered(harmony, {})["usage"]
    assert whole["prompt_tokens_details"] == {"cached_tokens": 0}
    options = {"stream_options": {"continuous_usage_stats": True, "include_usage": True}}
    news = chunks(harmony, options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in news]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert news[-1]["usage"] == whole
    assert answered(harmony, {})["choices"][0]["message"]["refusal"] is None
    assert all(chunk["system_fingerprint"].startswith("yardmaster-") for chunk in news)
