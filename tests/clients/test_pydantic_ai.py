"""pydantic-ai with both of OpenAI's models: tools, typed results in each of its ways, streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from yardmaster.tests.clients.spoken import calls, says

ai = pytest.importorskip("pydantic_ai", reason="needs the extra `clients`")
models = pytest.importorskip("pydantic_ai.models.openai")
providers = pytest.importorskip("pydantic_ai.providers.openai")

APIS = ("OpenAIChatModel", "OpenAIResponsesModel")
WAGON = '{"number": 7, "cargo": "coal"}'


class Wagon(BaseModel):
    number: int
    cargo: str


@pytest.fixture(params=APIS)
def agent(served: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`agent(**fields)` with a tool on request."""

    def make(tool: bool = False, **fields: Any) -> Any:
        client = openai.AsyncOpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=20)
        model = getattr(models, request.param)(served.model, provider=providers.OpenAIProvider(openai_client=client))
        made = ai.Agent(model, **fields)
        if tool:

            @made.tool_plain
            def tracks(yard: str) -> str:
                """How many tracks a yard has."""
                return f"{yard} has 40"

        return made

    return make


def test_answer_and_a_second_turn(agent: Any, served: Any) -> None:
    served.plays(says("Hello 🙂"), says("Again"))
    asked = agent(instructions="Be brief.")

    async def work() -> Any:
        first = await asked.run("hi")
        return first, await asked.run("more", message_history=first.all_messages())

    first, second = asyncio.run(work())
    assert (first.output, second.output) == ("Hello 🙂", "Again")
    assert first.usage.output_tokens == len(served.stage.ids(says("Hello 🙂"))) + 1
    assert "Hello 🙂<|end|><|start|>user<|message|>more" in served.prompt
    assert "Be brief." in served.prompt


def test_tool_loop(agent: Any, served: Any) -> None:
    served.plays(calls("tracks", yard="Zürich"), says("40 tracks"))
    assert asyncio.run(agent(tool=True).run("How many?")).output == "40 tracks"
    assert "Zürich has 40" in served.prompt
    assert "functions.tracks to=assistant<|channel|>commentary<|message|>" in served.prompt


def test_a_call_that_does_not_fit_is_asked_again(agent: Any, served: Any) -> None:
    served.plays(calls("tracks", yard=5), calls("tracks", yard="b"), says("done"))
    assert asyncio.run(agent(tool=True).run("hi")).output == "done"
    assert "valid string" in served.prompt


def test_streamed_text(agent: Any, served: Any) -> None:
    served.plays(calls("tracks", yard="a"), says("Hello 🙂 you"))

    async def work() -> tuple[list[str], Any]:
        async with agent(tool=True).run_stream("hi") as run:
            return [text async for text in run.stream_text(delta=True, debounce_by=None)], await run.get_output()

    texts, output = asyncio.run(work())
    assert "".join(texts) == output == "Hello 🙂 you"
    assert len(texts) > 3


@pytest.mark.parametrize("way", ["ToolOutput", "NativeOutput", "PromptedOutput"])
@pytest.mark.parametrize("stream", [False, True])
def test_typed_result(agent: Any, served: Any, way: str, stream: bool) -> None:
    served.plays(calls("final_result", number=7, cargo="coal") if way == "ToolOutput" else says(WAGON))
    asked = agent(output_type=getattr(ai, way)(Wagon))

    async def work() -> Any:
        if not stream:
            return (await asked.run("A wagon.")).output
        async with asked.run_stream("A wagon.") as run:
            return [part async for part in run.stream_output(debounce_by=None)][-1]

    assert asyncio.run(work()) == Wagon(number=7, cargo="coal")
    assert way == "PromptedOutput" or "cargo" in served.grammar


def test_thoughts_are_parts(agent: Any, served: Any) -> None:
    served.plays(says("Hello"), says("Hello"))

    async def work() -> Any:
        asked = agent(model_settings={"openai_reasoning_effort": "low"})
        whole = (await asked.run("hi")).all_messages()[-1]
        async with asked.run_stream("hi") as run:
            await run.get_output()
            return whole, run.all_messages()[-1]

    for message in asyncio.run(work()):
        assert [part.part_kind for part in message.parts] == ["thinking", "text"]
    assert "Reasoning: low" in served.prompt
