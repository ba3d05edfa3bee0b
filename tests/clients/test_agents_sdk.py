"""OpenAI's agents SDK over both of its models: a loop with a tool, streamed and whole, and typed results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from yardmaster.tests.clients.spoken import calls, says

agents = pytest.importorskip("agents", reason="needs the extra `clients`")

MODELS = ("OpenAIResponsesModel", "OpenAIChatCompletionsModel")


class Wagon(BaseModel):
    number: int
    cargo: str


@agents.function_tool
def tracks(yard: str) -> str:
    """How many tracks a yard has.

    Args:
        yard: Its name.
    """
    return f"{yard} has 40"


@pytest.fixture(params=MODELS)
def run(served: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`run(work)` awaits `work(model)`."""
    agents.set_tracing_disabled(True)

    async def with_model(work: Callable[[Any], Awaitable[Any]]) -> Any:
        async with openai.AsyncOpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=20) as client:
            return await work(getattr(agents, request.param)(model=served.model, openai_client=client))

    return lambda work: asyncio.run(with_model(work))


def test_answer(run: Any, served: Any) -> None:
    served.plays(says("Hello 🙂"))

    async def work(model: Any) -> Any:
        return await agents.Runner.run(agents.Agent(name="a", instructions="Be brief.", model=model), "hi")

    result = run(work)
    assert result.final_output == "Hello 🙂"
    assert result.context_wrapper.usage.output_tokens > 0
    assert "Be brief." in served.prompt


def test_tool_loop(run: Any, served: Any) -> None:
    served.plays(calls("tracks", yard="Maschen"), says("40 tracks"))

    async def work(model: Any) -> Any:
        return await agents.Runner.run(agents.Agent(name="a", tools=[tracks], model=model), "How many?")

    result = run(work)
    assert result.final_output == "40 tracks"
    assert [item.type for item in result.new_items if "tool" in item.type] == [
        "tool_call_item",
        "tool_call_output_item",
    ]
    assert "<|start|>functions.tracks to=assistant<|channel|>commentary<|message|>" in served.prompt
    assert "Maschen has 40" in served.prompt
    assert "type tracks = (_: {" in served.prompt
    assert served.left == []


def test_streamed_tool_loop(run: Any, served: Any) -> None:
    served.plays(calls("tracks", yard="Maschen"), says("40 tracks"))

    async def work(model: Any) -> Any:
        result = agents.Runner.run_streamed(agents.Agent(name="a", tools=[tracks], model=model), "How many?")
        events = [event async for event in result.stream_events()]
        return result, events

    result, events = run(work)
    assert result.final_output == "40 tracks"
    raw = [event.data for event in events if event.type == "raw_response_event"]
    assert "".join(each.delta for each in raw if each.type == "response.output_text.delta") == "40 tracks"
    names = [event.name for event in events if event.type == "run_item_stream_event"]
    assert [name for name in names if name != "reasoning_item_created"] == [
        *("tool_called", "tool_output", "message_output_created"),
    ]


def test_typed_result(run: Any, served: Any) -> None:
    served.plays(says('{"number": 7, "cargo": "coal"}'))

    async def work(model: Any) -> Any:
        return await agents.Runner.run(agents.Agent(name="a", output_type=Wagon, model=model), "A wagon.")

    assert run(work).final_output == Wagon(number=7, cargo="coal")
    assert served.grammar
    assert "cargo" in served.grammar


def test_handoff_and_session(run: Any, served: Any) -> None:
    """Another agent takes over by a call; a second turn goes on from the history that the SDK keeps."""
    served.plays(calls("transfer_to_yard"), says("Yard here"), says("Still here"))

    async def work(model: Any) -> Any:
        yard = agents.Agent(name="Yard", instructions="You are the yard.", model=model)
        desk = agents.Agent(name="Desk", instructions="You are the desk.", handoffs=[yard], model=model)
        session = agents.SQLiteSession("one")
        first = await agents.Runner.run(desk, "hi", session=session)
        second = await agents.Runner.run(yard, "and now?", session=session)
        return first, second

    first, second = run(work)
    assert (first.final_output, first.last_agent.name) == ("Yard here", "Yard")
    assert second.final_output == "Still here"
    assert "You are the yard." in served.prompt
    assert "Yard here" in served.prompt


def test_several_calls_at_once_and_a_forced_one(run: Any, served: Any) -> None:
    call = calls("tracks", yard="Maschen")
    served.plays(f"{call}<|call|><|start|>assistant" + calls("tracks", yard="Zürich"), says("80"))

    async def work(model: Any) -> Any:
        settings = agents.ModelSettings(tool_choice="auto", temperature=0.5, max_tokens=300)
        agent = agents.Agent(name="a", tools=[tracks], model=model, model_settings=settings)
        result = await agents.Runner.run(agent, "Both?")
        served.plays(calls("tracks", yard="Maschen"), says("forced"))
        forced = agents.ModelSettings(tool_choice="required", parallel_tool_calls=False, reasoning={"effort": "low"})
        return result, await agents.Runner.run(agent.clone(model_settings=forced), "One?")

    result, forced = run(work)
    outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert outputs == ["Maschen has 40", "Zürich has 40"]
    assert forced.final_output == "forced"
    assert "Reasoning: low" in served.prompt
