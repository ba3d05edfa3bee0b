"""OpenAI's own SDK, sync and async, unpatched, over a real socket."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from yardmaster.engine.messages import RequestOutput

KEY = "sk-test-key-0123456789"
HELLO: Any = [{"role": "user", "content": "hi"}]
ANSWER = "<|channel|>analysis<|message|>Thinking é<|end|><|start|>assistant<|channel|>final<|message|>Hello 🙂 you"


@pytest.fixture
def url(harmony: Any, live: Callable[..., str]) -> str:
    app = harmony.app(api_keys=(KEY,))
    harmony.engine.script = harmony.say(ANSWER)
    return live(app, harmony.config) + "/v1"


@pytest.fixture
def sdk(url: str) -> Any:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=20) as client:
        yield client


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="test-model", messages=HELLO, logprobs=False, seed=1)
    assert answer.choices[0].message.content == "Hello 🙂 you"
    assert answer.choices[0].message.reasoning_content == "Thinking é"  # type: ignore[attr-defined]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens_details
    assert answer.usage.completion_tokens_details.reasoning_tokens
    # What the SDK gives can be sent back as it is.
    turn: Any = answer.choices[0].message.model_dump()
    again = sdk.chat.completions.create(model="test-model", messages=[*HELLO, turn, *HELLO])
    assert again.choices[0].message.content == "Hello 🙂 you"


def test_chat_stream(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model="test-model", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello 🙂 you"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens > 0


def test_stream_helper(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="test-model", messages=HELLO) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == "Hello 🙂 you"


TOOL: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
CALL = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.now "
    '<|constrain|>json<|message|>{"zone": "UTC"}'
)


def test_tools(sdk: openai.OpenAI, harmony: Any) -> None:
    harmony.engine.script = harmony.say(CALL)
    asked: dict[str, Any] = {"model": "test-model", "tools": [TOOL], "tool_choice": "auto"}
    choice = sdk.chat.completions.create(messages=HELLO, **asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    assert (call.type, call.function.name, call.function.arguments) == ("function", "now", '{"zone": "UTC"}')
    with sdk.chat.completions.stream(messages=HELLO, **asked) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final: Any = stream.get_final_completion().choices[0]
    assert [(event.name, event.arguments) for event in done] == [("now", '{"zone": "UTC"}')]
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls[0].function.arguments == '{"zone": "UTC"}'
    # Both messages go back as they are, and the model sees its thought, its call and the result.
    result = {"role": "tool", "tool_call_id": call.id, "content": "12:00"}
    harmony.engine.script = harmony.say(ANSWER)
    history: Any = [*HELLO, choice.message, result]
    assert sdk.chat.completions.create(messages=history, **asked).choices[0].message.content == "Hello 🙂 you"
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False)
    assert "<|channel|>analysis<|message|>Hm.<|end|>" in prompt
    assert "<|start|>functions.now to=assistant<|channel|>commentary<|message|>12:00<|end|><|start|>assistant" in prompt
    accumulated: Any = [*HELLO, final.message.model_dump(), {**result, "tool_call_id": final.message.tool_calls[0].id}]
    assert sdk.chat.completions.create(messages=accumulated, **asked).choices[0].finish_reason == "stop"
    assert harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False) == prompt


def test_completions(sdk: openai.OpenAI, harmony: Any) -> None:
    harmony.engine.script = harmony.say("text")
    answer = sdk.completions.create(model="test-model", prompt=["a", "b"], n=2, max_tokens=5)
    assert [choice.text for choice in answer.choices] == ["text"] * 4
    chunks = list(sdk.completions.create(model="test-model", prompt="a", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "text"


def test_models(sdk: openai.OpenAI, harmony: Any) -> None:
    assert [model.id for model in sdk.models.list()] == ["test-model", "org/alias"]
    assert sdk.models.retrieve("org/alias").id == "org/alias"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nobody/nothing")


def test_exceptions(sdk: openai.OpenAI, url: str, harmony: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model="test-model", messages=HELLO, temperature=-1)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "temperature",
        "invalid_value",
        "invalid_request_error",
    )
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="other", messages=HELLO)
    with (
        pytest.raises(openai.AuthenticationError),
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as bad_sdk,
    ):
        bad_sdk.models.list()
    harmony.engine.refuse = harmony.EngineOverloaded("full", 3)
    with pytest.raises(openai.InternalServerError) as busy:
        sdk.chat.completions.create(model="test-model", messages=HELLO)
    assert busy.value.status_code == 503
    assert busy.value.response.headers["retry-after"] == "3"
    harmony.engine.refuse = None
    harmony.engine.script = lambda submit: [harmony.EngineDead("x")]
    with pytest.raises(openai.InternalServerError):
        sdk.chat.completions.create(model="test-model", messages=HELLO)
    with pytest.raises(openai.APIError, match="engine has stopped"):
        list(sdk.chat.completions.create(model="test-model", messages=HELLO, stream=True))


def test_retry_after_the_queue_was_full(url: str, harmony: Any) -> None:
    """The SDK's own retry gets through once there is room."""
    refusals = [harmony.EngineOverloaded("full", 1)]
    submit = harmony.engine.submit

    async def once(request: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await submit(request)

    harmony.engine.submit = once
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=1) as sdk:
        assert sdk.chat.completions.create(model="test-model", messages=HELLO).choices


def test_leaving_a_stream_aborts(sdk: openai.OpenAI, harmony: Any) -> None:
    harmony.engine.script = harmony.say("<|channel|>final<|message|>" + "word " * 500, pause=0.01)
    with sdk.chat.completions.create(model="test-model", messages=HELLO, stream=True, n=2) as stream:
        next(iter(stream))
    until(lambda: len(harmony.engine.aborted) == 2)
    assert set(harmony.engine.aborted) == {each.request_id for each in harmony.engine.submitted}


def test_async_cancellation_of_a_whole_answer_aborts(url: str, harmony: Any) -> None:
    harmony.engine.script = harmony.say("<|channel|>final<|message|>" + "word " * 500, pause=0.01)

    async def go() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as sdk:
            asking = asyncio.create_task(sdk.chat.completions.create(model="test-model", messages=HELLO))
            async with asyncio.timeout(10):
                while not harmony.engine.submitted:
                    await asyncio.sleep(0.005)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(go())
    until(lambda: harmony.engine.aborted)
    metrics = harmony.metrics.render().decode()
    until(lambda: 'finished_reason="abort"} 1.0' in harmony.metrics.render().decode())
    assert "yardmaster_http_requests_total" in metrics


def test_streams_side_by_side_do_not_mix(url: str, harmony: Any) -> None:
    """64 at once, each with words, token sizes and pauses of its own, half of them streamed, some stopped early."""
    words = ["ünder", "日本", "🙂", "hello", "the", "STOP", "z", "\n"]

    def spoken(seed: int) -> str:
        draw = random.Random(seed)
        return f"{seed}:" + " ".join(draw.choices(words[:5], k=draw.randrange(5, 25))) + f" END{seed} tail"

    def script(submit: Any) -> Any:
        draw = random.Random(submit.params.seed)
        text = (
            f"<|channel|>analysis<|message|>r{submit.params.seed}<|end|><|start|>assistant<|channel|>final<|message|>"
        )
        ids = [*harmony.ids(text + spoken(submit.params.seed)), harmony.eos]
        while ids:
            size = draw.randrange(1, 4)
            yield draw.choice([0.0, 0.0, 0.002])
            yield RequestOutput(
                request_id=submit.request_id, token_ids=ids[:size], finish_reason="stop" if len(ids) <= size else None
            )
            ids = ids[size:]

    harmony.engine.script = script

    async def one(sdk: openai.AsyncOpenAI, seed: int) -> tuple[str, str]:
        stop = f"END{seed}" if seed % 3 == 0 else None
        if seed % 2:
            answer = await sdk.chat.completions.create(model="test-model", messages=HELLO, seed=seed, stop=stop)
            message: Any = answer.choices[0].message
            return message.content, message.reasoning_content
        content = reasoning = ""
        stream = await sdk.chat.completions.create(
            model="test-model", messages=HELLO, seed=seed, stop=stop, stream=True
        )
        async for chunk in stream:
            delta: Any = chunk.choices[0].delta
            content += delta.content or ""
            reasoning += getattr(delta, "reasoning_content", None) or ""
        return content, reasoning

    async def go() -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=30) as sdk:
            return await asyncio.gather(*(one(sdk, seed) for seed in range(64)))

    for seed, (content, reasoning) in enumerate(asyncio.run(go())):
        whole = spoken(seed)
        assert content == (whole[: whole.index(f"END{seed}")] if seed % 3 == 0 else whole)
        assert reasoning == f"r{seed}"
