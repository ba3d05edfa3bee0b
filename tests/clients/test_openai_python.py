"""What the SDK tests of the server leave out: each helper of OpenAI's own Python SDK, in its two forms."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from yardmaster.tests.clients.spoken import THOUGHT, calls, says

HELLO: Any = [{"role": "user", "content": "hi"}]
WAGON = '{"number": 7, "cargo": "coal"}'


class Wagon(BaseModel):
    number: int
    cargo: str


TOOL = openai.pydantic_function_tool(Wagon, name="order")


async def settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@contextlib.asynccontextmanager
async def opened(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as inside:
            yield inside
    else:
        with manager as inside:
            yield inside


async def listed(stream: Any) -> list[Any]:
    return [each async for each in stream] if hasattr(stream, "__aiter__") else list(stream)


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
def run(served: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """`run(work)` awaits `work(client)`."""

    async def with_client(work: Callable[[Any], Awaitable[Any]]) -> Any:
        async with opened(request.param(base_url=served.url, api_key=served.key, max_retries=0, timeout=20)) as client:
            return await work(client)

    yield lambda work: asyncio.run(with_client(work))
    assert served.left == []


def test_chat_parse(run: Any, served: Any) -> None:
    asked: dict[str, Any] = {"model": served.model, "messages": HELLO}
    served.plays(says(WAGON), calls("order", number=7, cargo="coal"))

    async def work(client: Any) -> None:
        parse = client.chat.completions.parse
        answer = (await settled(parse(response_format=Wagon, **asked))).choices[0].message
        assert answer.parsed == Wagon(number=7, cargo="coal")
        assert "cargo" in served.grammar
        (call,) = (await settled(parse(tools=[TOOL], **asked))).choices[0].message.tool_calls
        assert call.function.parsed_arguments == Wagon(number=7, cargo="coal")
        with pytest.raises(openai.LengthFinishReasonError), served.playing(says('{"number": 7'), "length"):
            await settled(parse(response_format=Wagon, **asked))

    run(work)


def test_chat_stream_helper(run: Any, served: Any) -> None:
    asked: dict[str, Any] = {"model": served.model, "messages": HELLO}
    served.plays(
        says(WAGON),
        f"{THOUGHT}<|channel|>commentary<|message|>I order.<|end|><|start|>assistant"
        + calls("order", number=7, cargo="coal"),
    )

    async def work(client: Any) -> None:
        stream = client.chat.completions.stream
        usage = {"include_usage": True}
        async with opened(stream(response_format=Wagon, logprobs=True, stream_options=usage, **asked)) as events:
            seen = await listed(events)
            final = await settled(events.get_final_completion())
        assert [each.parsed for each in seen if each.type == "content.done"] == [Wagon(number=7, cargo="coal")]
        assert "".join(each.delta for each in seen if each.type == "content.delta") == WAGON
        assert final.choices[0].message.parsed == Wagon(number=7, cargo="coal")
        assert final.usage.completion_tokens == len(served.stage.ids(says(WAGON))) + 1
        async with opened(stream(tools=[TOOL], parallel_tool_calls=False, **asked)) as events:
            seen = await listed(events)
            final = await settled(events.get_final_completion())
        done = [each for each in seen if each.type == "tool_calls.function.arguments.done"]
        assert [each.parsed_arguments for each in done] == [Wagon(number=7, cargo="coal")]
        message = final.choices[0].message
        assert message.content == "I order."
        assert message.tool_calls[0].function.parsed_arguments == Wagon(number=7, cargo="coal")

    run(work)


def test_streamed_calls_side_by_side(run: Any, served: Any) -> None:
    one, two = calls("order", number=1, cargo="coal"), calls("order", number=2, cargo="grain")
    served.plays(f"{one}<|call|><|start|>assistant{two}")

    async def work(client: Any) -> list[Any]:
        asked: dict[str, Any] = {"model": served.model, "messages": HELLO, "tools": [TOOL]}
        async with opened(client.chat.completions.stream(**asked)) as events:
            return (await settled(events.get_final_completion())).choices[0].message.tool_calls

    wagons = [call.function.parsed_arguments for call in run(work)]
    assert wagons == [Wagon(number=1, cargo="coal"), Wagon(number=2, cargo="grain")]


def test_chat_raw(run: Any, served: Any) -> None:
    asked: dict[str, Any] = {"model": served.model, "messages": HELLO}
    served.plays(*[says("Hello 🙂")] * 4)

    async def work(client: Any) -> None:
        raw = await settled(client.chat.completions.with_raw_response.create(**asked))
        assert raw.headers["content-type"] == "application/json"
        assert raw.parse().choices[0].message.content == "Hello 🙂"
        async with opened(client.chat.completions.with_streaming_response.create(stream=True, **asked)) as response:
            lines = await listed(response.iter_lines())
        assert [line for line in lines if line][-1] == "data: [DONE]"
        stream = await settled(client.chat.completions.create(n=2, stream=True, **asked))
        texts = ["", ""]
        for chunk in await listed(stream):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert texts == ["Hello 🙂"] * 2

    run(work)


def test_responses_helpers(run: Any, served: Any) -> None:
    asked: dict[str, Any] = {"model": served.model, "input": "hi"}
    tool = openai.pydantic_function_tool(Wagon, name="order")["function"]
    tools: Any = [{"type": "function", **tool}]
    served.plays(says(WAGON), says(WAGON), calls("order", number=7, cargo="coal"), says("more"))

    async def work(client: Any) -> None:
        answer = await settled(client.responses.parse(text_format=Wagon, **asked))
        assert answer.output_parsed == Wagon(number=7, cargo="coal")
        async with opened(client.responses.stream(text_format=Wagon, **asked)) as events:
            seen = await listed(events)
            final = await settled(events.get_final_response())
        assert [each.parsed for each in seen if each.type == "response.output_text.done"] == [answer.output_parsed]
        assert final.output_parsed == answer.output_parsed
        async with opened(client.responses.stream(tools=tools, **asked)) as events:
            await settled(events.until_done())
            final = await settled(events.get_final_response())
        call = final.output[-1]
        assert Wagon.model_validate_json(call.arguments) == answer.output_parsed
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
        more = await settled(
            client.responses.create(model=served.model, input=[result], tools=tools, previous_response_id=final.id)
        )
        assert more.output_text == "more"
        items = await settled(client.responses.input_items.list(more.id, order="asc"))
        assert [item.type for item in items.data][-1] == "function_call_output"

    run(work)


def test_completions(run: Any, served: Any) -> None:
    asked: dict[str, Any] = {"model": served.model, "prompt": "x"}
    served.plays("a text", "a text")

    async def work(client: Any) -> None:
        assert (await settled(client.completions.create(**asked))).choices[0].text == "a text"
        stream = await settled(client.completions.create(stream=True, **asked))
        assert "".join(chunk.choices[0].text for chunk in await listed(stream)) == "a text"
        assert [model.id for model in await listed(client.models.list())] == [served.model]

    run(work)
