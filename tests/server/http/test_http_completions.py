"""Text completions: prompts in their four forms, echo, logprobs; and the tokenizer routes."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from yardmaster.engine.messages import RequestOutput, TokenLogprob


def post(app: Any, path: str, body: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    return anyio.run(send)


def complete(stage: Any, body: dict[str, Any], **config: Any) -> Any:
    response = post(stage.app(**config), "/v1/completions", body)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(stage: Any, body: dict[str, Any]) -> list[Any]:
    response = post(stage.app(), "/v1/completions", body | {"stream": True})
    blocks = response.text.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def answering(stage: Any, text: str, logprobs: bool = False) -> Any:
    """Plays `text`; a token's logprob is minus a tenth of its id, and the best alternative is token 1."""

    def score(token: int) -> TokenLogprob:
        return TokenLogprob(token_id=token, logprob=-token / 10, rank=2, top=[(1, -0.1), (token, -token / 10)])

    def script(submit: Any) -> Any:
        ids = stage.ids(text)
        for at, token in enumerate(ids):
            yield RequestOutput(
                request_id=submit.request_id,
                token_ids=[token],
                logprobs=[score(token)] if logprobs else None,
                prompt_logprobs=[None, *map(score, submit.prompt_token_ids[1:])]
                if at == 0 and submit.params.prompt_logprobs is not None
                else None,
                finish_reason="length" if at == len(ids) - 1 else None,
            )

    return script


def test_prompt_forms(plain: Any) -> None:
    plain.engine.script = lambda submit: answering(plain, f"<{len(submit.prompt_token_ids)}>")(submit)
    ids = plain.ids("hello é")
    for prompt, prompts in (
        ("hello é", [ids]),
        (["hello é", "z"], [ids, plain.ids("z")]),
        (ids, [ids]),
        ([ids, [5], [6, 7]], [ids, [5], [6, 7]]),
    ):
        plain.engine.submitted.clear()
        body = complete(plain, {"prompt": prompt, "n": 2})
        assert [each.prompt_token_ids for each in plain.engine.submitted] == [each for each in prompts for _ in (0, 1)]
        assert [choice["text"] for choice in body["choices"]] == [f"<{len(each)}>" for each in prompts for _ in (0, 1)]
        assert [choice["index"] for choice in body["choices"]] == list(range(2 * len(prompts)))
        assert body["usage"]["prompt_tokens"] == sum(map(len, prompts))
        assert body["object"] == "text_completion"
    assert plain.engine.submitted[0].params.max_tokens == 16


def test_control_tokens_in_a_prompt_are_text(harmony: Any) -> None:
    complete(harmony, {"prompt": "<|start|>"})
    assert not set(harmony.engine.submitted[0].prompt_token_ids) & harmony.tokenizer.special_ids


def test_raw_text_even_of_a_harmony_model(harmony: Any) -> None:
    harmony.engine.script = harmony.say("<|channel|>final<|message|>x")
    assert complete(harmony, {"prompt": "a"})["choices"][0]["text"] == "finalx"
    shown = complete(harmony, {"prompt": "a", "skip_special_tokens": False})["choices"][0]["text"]
    assert shown == "<|channel|>final<|message|>x"


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs(plain: Any, stream: bool) -> None:
    plain.engine.script = answering(plain, "é ok", logprobs=True)
    body = {"prompt": "hello 🙂", "echo": True, "logprobs": 2}
    if stream:
        chunks = streamed(plain, body)
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        found = {name: [each for part in parts for each in part[name]] for name in parts[0]}
    else:
        choice = complete(plain, body)["choices"][0]
        text, found = choice["text"], choice["logprobs"]
    assert text == "hello 🙂é ok"
    ids = plain.ids("hello 🙂") + plain.ids("é ok")
    assert found["token_logprobs"] == [None] + [-token / 10 for token in ids[1:]]
    assert found["top_logprobs"][0] is None
    assert len(found["tokens"]) == len(found["text_offset"]) == len(found["top_logprobs"]) == len(ids)
    assert found["tokens"][0] == "hello"
    assert found["tokens"][2] == "bytes:\\xf0"
    assert found["top_logprobs"][1][found["tokens"][1]] == -ids[1] / 10
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        if not token.startswith("bytes:"):
            assert text[offset:].startswith(token)
    assert plain.engine.submitted[0].params.prompt_logprobs == 2


@pytest.mark.parametrize("stream", [False, True])
def test_echo_of_tokens_without_text(plain: Any, stream: bool) -> None:
    plain.engine.script = answering(plain, "ok", logprobs=True)
    body = {"prompt": [plain.eos, plain.eos], "echo": True, "logprobs": 1}
    if stream:
        parts = [chunk["choices"][0]["logprobs"] for chunk in streamed(plain, body)]
        found = {name: [each for part in parts for each in part[name]] for name in parts[0]}
    else:
        found = complete(plain, body)["choices"][0]["logprobs"]
    assert found["tokens"] == ["<|endoftext|>", "<|endoftext|>", "o", "k"]
    assert found["token_logprobs"][:2] == [None, -plain.eos / 10]
    assert found["text_offset"] == [0, 0, 0, 1]


def test_echo_alone(plain: Any) -> None:
    plain.engine.script = answering(plain, "!", logprobs=True)
    assert complete(plain, {"prompt": "abc", "echo": True})["choices"][0]["text"] == "abc!"
    assert complete(plain, {"prompt": plain.ids("abc"), "echo": True})["choices"][0]["text"] == "abc!"
    scored = complete(plain, {"prompt": "abc", "echo": True, "max_tokens": 0, "logprobs": 0})
    assert scored["choices"][0]["text"] == "abc"
    assert scored["choices"][0]["logprobs"]["tokens"] == ["a", "b", "c"]
    assert scored["choices"][0]["logprobs"]["top_logprobs"] == [None] * 3
    assert scored["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 0,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_streamed_choices_do_not_mix(plain: Any) -> None:
    plain.engine.script = lambda submit: plain.say(f"answer to {submit.prompt_token_ids}", size=2)(submit)
    chunks = streamed(plain, {"prompt": [[1], [2], [3]], "stream_options": {"include_usage": True}})
    for index in range(3):
        text = "".join(each["text"] for chunk in chunks for each in chunk["choices"] if each["index"] == index)
        assert text == f"answer to [{index + 1}]"
    assert chunks[-1]["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ["a", ""]}, "prompt[1]", "invalid_value"),
        ({"prompt": [[]]}, "prompt[0]", "invalid_value"),
        ({"prompt": [[1], []]}, "prompt[1]", "invalid_value"),
        ({"prompt": [1, "a"]}, "prompt[1]", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_value"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
        ({"prompt": [1, 10**6]}, "prompt[1]", "invalid_value"),
        ({"prompt": [[1], [1, 10**6]]}, "prompt[1][1]", "invalid_value"),
        ({"prompt": [2**40]}, "prompt[0]", "invalid_value"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_value"),
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "invalid_value"),
        ({"prompt": "a", "logprobs": 6}, "logprobs", "invalid_value"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "invalid_value"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompt": "a", "echo": True, "prompt_logprobs": 1}, "prompt_logprobs", "invalid_value"),
    ],
)
def test_refusals(plain: Any, body: Any, param: str, code: str) -> None:
    response = post(plain.app(), "/v1/completions", body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert plain.engine.submitted == []


def test_best_of_and_suffix_that_ask_for_nothing(plain: Any) -> None:
    complete(plain, {"prompt": "a", "n": 2, "best_of": 2, "suffix": ""})


def test_tokenize_and_back(harmony: Any) -> None:
    app = harmony.app()
    text = "hello wörld <|end|> 🙂"
    body = post(app, "/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert body["tokens"] == harmony.tokenizer.encode(text)
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == harmony.max_model_len
    assert post(app, "/detokenize", {"tokens": body["tokens"]}).json() == {"prompt": text}
    chat = post(app, "/tokenize", {"messages": [{"role": "user", "content": text}]}).json()
    shown = post(app, "/detokenize", {"tokens": chat["tokens"]}).json()["prompt"]
    assert shown.endswith(f"<|end|><|start|>user<|message|>{text}<|end|><|start|>assistant")
    assert post(app, "/detokenize", {"tokens": []}).json() == {"prompt": ""}
    for body, param in (({}, "prompt"), ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt")):
        assert post(app, "/tokenize", body).json()["error"]["param"] == param
    assert post(app, "/detokenize", {"tokens": [10**6]}).json()["error"]["param"] == "tokens[0]"
