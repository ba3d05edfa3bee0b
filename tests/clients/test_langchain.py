"""LangChain's models of OpenAI's two APIs and of Anthropic's: invoke, stream, batch, tools, structured output."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, Field

from yardmaster.tests.clients.spoken import calls, says

langchain_openai = pytest.importorskip("langchain_openai", reason="needs the extra `clients`")
langchain_anthropic = pytest.importorskip("langchain_anthropic", reason="needs the extra `clients`")
messages = pytest.importorskip("langchain_core.messages")
tools = pytest.importorskip("langchain_core.tools")


class Wagon(BaseModel):
    """A wagon."""

    number: int = Field(ge=1)
    cargo: str


WAGON = '{"number": 7, "cargo": "coal"}'
APIS = ("chat", "responses", "anthropic")
METHODS = ("function_calling", "json_schema", "json_mode")
SHAPED = [(api, method) for api in APIS for method in METHODS if (api, method) != ("anthropic", "json_mode")]


@tools.tool
def tracks(yard: str) -> str:
    """How many tracks a yard has."""
    return f"{yard} has 40"


@pytest.fixture(params=APIS)
def model(served: Any, request: pytest.FixtureRequest) -> Any:
    asked: dict[str, Any] = {"model": served.model, "max_retries": 0, "timeout": 20}
    if request.param == "anthropic":
        return langchain_anthropic.ChatAnthropic(base_url=served.root, api_key=served.key, max_tokens=300, **asked)
    asked |= {"base_url": served.url, "api_key": served.key, "stream_usage": True}
    asked["http_async_client"] = httpx.AsyncClient()  # its own is kept from one event loop to the next
    return langchain_openai.ChatOpenAI(use_responses_api=request.param == "responses", **asked)


def test_invoke(model: Any, served: Any) -> None:
    served.plays(says("Hello 🙂"), says("Again"))
    conversation = [messages.SystemMessage("Be brief."), messages.HumanMessage("hi")]
    answer = model.invoke(conversation)
    assert answer.text == "Hello 🙂"
    assert answer.usage_metadata["output_tokens"] > 0
    # The answer goes back as it came.
    assert model.invoke([*conversation, answer, messages.HumanMessage("more")]).text == "Again"
    assert "Hello 🙂<|end|><|start|>user<|message|>more" in served.prompt
    assert "Be brief." in served.prompt


def test_stream(model: Any, served: Any) -> None:
    served.plays(says("Hello 🙂 you"))
    pieces = list(model.stream("hi"))
    assert len(pieces) > 3
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    assert whole.text == "Hello 🙂 you"
    assert whole.usage_metadata["output_tokens"] == len(served.stage.ids(says("Hello 🙂 you"))) + 1


def test_async_stream_and_batch(model: Any, served: Any) -> None:
    async def work() -> tuple[str, list[str]]:
        served.plays(says("Hello 🙂 you"))
        text = "".join([piece.text async for piece in model.astream("hi")])
        served.plays(*[says("same")] * 6)
        return text, [answer.text for answer in await model.abatch(["a"] * 6)]

    assert asyncio.run(work()) == ("Hello 🙂 you", ["same"] * 6)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_loop(model: Any, served: Any, stream: bool) -> None:
    served.plays(calls("tracks", yard="Zürich"), says("40 tracks"))
    bound = model.bind_tools([tracks])

    def ask(conversation: list[Any]) -> Any:
        if not stream:
            return bound.invoke(conversation)
        first, *rest = bound.stream(conversation)
        for piece in rest:
            first = first + piece
        return first

    conversation: list[Any] = [messages.HumanMessage("How many?")]
    turn = ask(conversation)
    (call,) = turn.tool_calls
    assert (call["name"], call["args"]) == ("tracks", {"yard": "Zürich"})
    conversation += [turn, tracks.invoke(call)]
    assert ask(conversation).text == "40 tracks"
    assert "functions.tracks to=assistant<|channel|>commentary<|message|>" in served.prompt
    assert "Zürich has 40" in served.prompt


def test_a_chosen_tool(model: Any, served: Any) -> None:
    served.plays(calls("tracks", yard="a"), calls("tracks", yard="b"))
    for choice in ("any", "tracks"):
        turn = model.bind_tools([tracks], tool_choice=choice).invoke("hi")
        assert [call["name"] for call in turn.tool_calls] == ["tracks"]
        assert served.grammar
        assert "tracks" in served.grammar


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "method"), SHAPED, indirect=["model"])
def test_structured_output(model: Any, served: Any, method: str, stream: bool) -> None:
    spoken = calls("Wagon", number=7, cargo="coal") if method == "function_calling" else says(WAGON)
    served.plays(spoken)
    shaped = model.with_structured_output(Wagon, method=method)
    asked = "A wagon, as JSON."
    assert (list(shaped.stream(asked))[-1] if stream else shaped.invoke(asked)) == Wagon(number=7, cargo="coal")
    assert served.grammar


def test_structured_output_with_tools_and_raw(served: Any) -> None:
    model = langchain_openai.ChatOpenAI(base_url=served.url, api_key=served.key, model=served.model, max_retries=0)
    served.plays(says(WAGON), calls("tracks", yard="a"))
    shaped = model.with_structured_output(Wagon, method="json_schema", include_raw=True, strict=True, tools=[tracks])
    assert shaped.invoke("hi")["parsed"] == Wagon(number=7, cargo="coal")
    assert [call["name"] for call in shaped.invoke("hi")["raw"].tool_calls] == ["tracks"]


def test_reasoning(served: Any) -> None:
    """The Responses API and Anthropic's hand over what the model thought."""
    served.plays(says("Hello"), says("Hello"))
    asked: dict[str, Any] = {"base_url": served.url, "api_key": served.key, "model": served.model}
    model = langchain_openai.ChatOpenAI(use_responses_api=True, reasoning={"effort": "low"}, **asked)
    kinds = [block["type"] for block in model.invoke("hi").content_blocks]
    assert kinds == ["reasoning", "text"]
    assert "Reasoning: low" in served.prompt
    asked["base_url"] = served.root
    thinking = {"type": "enabled", "budget_tokens": 1024}
    thinker = langchain_anthropic.ChatAnthropic(max_tokens=2000, thinking=thinking, **asked)
    blocks = thinker.invoke("hi").content_blocks
    assert [block["type"] for block in blocks] == ["reasoning", "text"]
    assert blocks[0]["reasoning"] == "Thinking é"


def test_text_completions(served: Any) -> None:
    asked: dict[str, Any] = {"base_url": served.url, "api_key": served.key, "model": served.model, "max_retries": 0}
    served.plays("a text")
    assert langchain_openai.OpenAI(**asked).invoke("x") == "a text"
    served.plays("a text")
    assert "".join(langchain_openai.OpenAI(**asked).stream("x")) == "a text"
