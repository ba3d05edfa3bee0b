"""LiteLLM with its two prefixes for servers of this kind, and with those of Anthropic's and text's routes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from yardmaster.server.fair.refusals import too_many_requests
from yardmaster.tests.clients.spoken import calls, says

litellm = pytest.importorskip("litellm", reason="needs the extra `clients`")

HELLO: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "tracks",
        "description": "How many tracks a yard has.",
        "parameters": {"type": "object", "properties": {"yard": {"type": "string"}}, "required": ["yard"]},
    },
}


class Wagon(BaseModel):
    number: int
    cargo: str


@pytest.fixture(params=["openai", "hosted_vllm"])
def asked(served: Any, request: pytest.FixtureRequest) -> dict[str, Any]:
    return {
        "model": f"{request.param}/{served.model}",
        "api_base": served.url,
        "api_key": served.key,
        "timeout": 20,
        "num_retries": 0,
    }


def test_completion(asked: dict[str, Any], served: Any) -> None:
    served.plays(says("Hello 🙂"), says("Again"))
    answer = litellm.completion(messages=HELLO, **asked)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("Hello 🙂", "Thinking é")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    effort: dict[str, Any] = {"reasoning_effort": "low", "allowed_openai_params": ["reasoning_effort"]}
    again = litellm.completion(messages=[*HELLO, message.model_dump(), *HELLO], **effort, **asked)
    assert again.choices[0].message.content == "Again"
    assert "Reasoning: low" in served.prompt


def test_stream(asked: dict[str, Any], served: Any) -> None:
    served.plays(says("Hello 🙂 you"))
    chunks = list(litellm.completion(messages=HELLO, stream=True, stream_options={"include_usage": True}, **asked))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Hello 🙂 you"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Thinking é"
    assert chunks[-1].usage.completion_tokens > 0
    assert litellm.stream_chunk_builder(chunks, messages=HELLO).choices[0].message.content == "Hello 🙂 you"


def test_async(asked: dict[str, Any], served: Any) -> None:
    async def work() -> tuple[list[str], str]:
        served.plays(*[says("same")] * 5, says("Hello 🙂 you"))
        answers = await asyncio.gather(*(litellm.acompletion(messages=HELLO, **asked) for _ in range(5)))
        stream = await litellm.acompletion(messages=HELLO, stream=True, **asked)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return [answer.choices[0].message.content for answer in answers], text

    assert asyncio.run(work()) == (["same"] * 5, "Hello 🙂 you")


@pytest.mark.parametrize("stream", [False, True])
def test_tool_loop(asked: dict[str, Any], served: Any, stream: bool) -> None:
    served.plays(calls("tracks", yard="Zürich"), says("40 tracks"))
    history: list[Any] = list(HELLO)
    answer = litellm.completion(messages=history, tools=[TOOL], stream=stream, **asked)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=history)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("tracks", {"yard": "Zürich"})
    history += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "40"}]
    answer = litellm.completion(messages=history, tools=[TOOL], **asked)
    assert answer.choices[0].message.content == "40 tracks"
    assert "functions.tracks to=assistant<|channel|>commentary<|message|>40" in served.prompt
    assert "Thinking é" in served.prompt


def test_structured_output(asked: dict[str, Any], served: Any) -> None:
    served.plays(says('{"number": 7, "cargo": "coal"}'), says("{}"))
    answer = litellm.completion(messages=HELLO, response_format=Wagon, **asked)
    assert Wagon.model_validate_json(answer.choices[0].message.content) == Wagon(number=7, cargo="coal")
    assert "cargo" in served.grammar
    litellm.completion(messages=HELLO, response_format={"type": "json_object"}, **asked)
    assert served.grammar


@pytest.mark.parametrize("stream", [False, True])
def test_responses(asked: dict[str, Any], served: Any, stream: bool) -> None:
    """`responses()` goes to /v1/responses or, where LiteLLM thinks there is none, by way of chat completions."""
    served.plays(says("Hello 🙂 you"))
    answer = litellm.responses(input="hi", instructions="Be brief.", stream=stream, **asked)
    if stream:
        events = list(answer)
        assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == "Hello 🙂 you"
        answer = events[-1].response
    said = [item for item in answer.output if item.type == "message"]
    assert said[0].content[0].text == "Hello 🙂 you"
    assert answer.usage.output_tokens > 0
    assert "Be brief." in served.prompt


def test_responses_tool_loop(asked: dict[str, Any], served: Any) -> None:
    served.plays(calls("tracks", yard="Zürich"), says("40 tracks"))
    tool = {"type": "function", "strict": False, **TOOL["function"]}
    first = litellm.responses(input="How many?", tools=[tool], **asked)
    (call,) = [item for item in first.output if item.type == "function_call"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "40"}
    history = [{"role": "user", "content": "How many?"}, *[item.model_dump() for item in first.output], result]
    second = litellm.responses(input=history, tools=[tool], **asked)
    assert second.output[-1].content[0].text == "40 tracks"
    assert "functions.tracks to=assistant<|channel|>commentary<|message|>40" in served.prompt


def test_errors(asked: dict[str, Any], served: Any) -> None:
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(messages=HELLO, **{**asked, "api_key": "wrong"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=HELLO, **{**asked, "model": asked["model"] + "-x"})
    with pytest.raises(litellm.BadRequestError, match="top_p"):
        litellm.completion(messages=HELLO, top_p=7, **asked)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "x " * 5000}], **asked)
    served.stage.engine.refuse = too_many_requests("team", 5, 3.0)
    with pytest.raises(litellm.RateLimitError):
        litellm.completion(messages=HELLO, **asked)
    served.stage.engine.refuse = served.stage.EngineOverloaded("full", 3)
    with pytest.raises(litellm.ServiceUnavailableError):
        litellm.completion(messages=HELLO, **asked)


def test_other_routes(served: Any) -> None:
    served.plays("a text")
    asked: dict[str, Any] = {"api_key": served.key, "timeout": 20, "num_retries": 0}
    text = litellm.text_completion(
        model=f"text-completion-openai/{served.model}", prompt="x", api_base=served.url, **asked
    )
    assert text.choices[0].text == "a text"
    served.plays(says("Hello 🙂"), says("Hello 🙂 you"))
    asked |= {"model": f"anthropic/{served.model}", "api_base": served.root, "max_tokens": 100, "messages": HELLO}
    assert litellm.completion(**asked).choices[0].message.content == "Hello 🙂"
    chunks = litellm.completion(stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello 🙂 you"
