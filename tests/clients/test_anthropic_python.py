"""What the SDK tests of the server leave out: typed answers of Anthropic's SDK, in its two forms."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
from pydantic import BaseModel

from yardmaster.tests.clients.spoken import calls, says

WAGON = '{"number": 7, "cargo": "coal"}'


class Wagon(BaseModel):
    number: int
    cargo: str


def test_parse(served: Any) -> None:
    asked: Any = {"model": served.model, "max_tokens": 500, "messages": [{"role": "user", "content": "A wagon."}]}
    served.plays(says(WAGON), says(WAGON))
    with anthropic.Anthropic(base_url=served.root, api_key=served.key, max_retries=0, timeout=20) as sdk:
        assert sdk.messages.parse(output_format=Wagon, **asked).parsed_output == Wagon(number=7, cargo="coal")
        assert "cargo" in served.grammar
        with sdk.messages.stream(output_format=Wagon, **asked) as stream:
            assert stream.get_final_message().parsed_output == Wagon(number=7, cargo="coal")
        assert "cargo" in served.grammar


def test_async_parse_and_streamed_tool_runner(served: Any) -> None:
    @anthropic.beta_async_tool
    async def tracks(yard: str) -> str:
        """How many tracks a yard has."""
        return f"{yard} has 40"

    async def work() -> tuple[Any, str]:
        asked: Any = {"model": served.model, "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}]}
        async with anthropic.AsyncAnthropic(base_url=served.root, api_key=served.key, max_retries=0) as sdk:
            served.plays(says(WAGON), calls("tracks", yard="Zürich"), says("40 tracks"))
            parsed = (await sdk.messages.parse(output_format=Wagon, **asked)).parsed_output
            text = ""
            async for turn in sdk.beta.messages.tool_runner(tools=[tracks], stream=True, **asked):
                async for event in turn:
                    text += event.text if event.type == "text" else ""
            return parsed, text

    assert asyncio.run(work()) == (Wagon(number=7, cargo="coal"), "40 tracks")
    assert "Zürich has 40" in served.prompt
    assert served.left == []
