"""instructor in its modes: models out of answers, asked again when they do not fit, and in parts as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from yardmaster.tests.clients.spoken import calls, says

instructor = pytest.importorskip("instructor", reason="needs the extra `clients`")
errors = pytest.importorskip("instructor.core")

HELLO: Any = [{"role": "user", "content": "A wagon."}]
WAGON = '{"number": 7, "cargo": "coal"}'
MODES = ("TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON", "RESPONSES_TOOLS")
BOUND = {"TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "RESPONSES_TOOLS"}


class Wagon(BaseModel):
    """A wagon."""

    number: int = Field(ge=1)
    cargo: Literal["coal", "grain"]


def spoken(mode: str, number: int = 7) -> str:
    """What a model says that was asked in this mode."""
    if "TOOLS" in mode:
        return calls("Wagon", number=number, cargo="coal")
    text = f'{{"number": {number}, "cargo": "coal"}}'
    return says(f"```json\n{text}\n```" if mode == "MD_JSON" else text)


@pytest.fixture
def asked(served: Any) -> dict[str, Any]:
    return {"model": served.model, "messages": HELLO, "response_model": Wagon}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def client(served: Any, mode: str) -> Any:
    sdk = openai.OpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=20)
    return instructor.from_openai(sdk, mode=instructor.Mode[mode])


def test_create(client: Any, mode: str, served: Any, asked: dict[str, Any]) -> None:
    served.plays(spoken(mode))
    wagon, raw = client.create_with_completion(**asked)
    assert wagon.model_dump() == {"number": 7, "cargo": "coal"}
    assert raw.usage
    assert bool(served.grammar) == (mode in BOUND)


def test_asks_again(client: Any, mode: str, served: Any, asked: dict[str, Any]) -> None:
    """The second question shows the model its first answer and what was wrong with it."""
    served.plays(spoken(mode, number=0), spoken(mode, number=9))
    assert client.create(**asked, max_retries=2).number == 9
    assert "greater than or equal to 1" in served.prompt
    assert '"number": 0' in served.prompt or '\\"number\\": 0' in served.prompt
    assert served.left == []


def test_gives_up(client: Any, mode: str, served: Any, asked: dict[str, Any]) -> None:
    served.plays(*[spoken(mode, number=0)] * 2)
    with pytest.raises(errors.InstructorRetryException):
        client.create(**asked, max_retries=2)
    assert served.left == []


def test_partial(client: Any, mode: str, served: Any, asked: dict[str, Any]) -> None:
    served.plays(spoken(mode))
    seen = list(client.create_partial(**asked))
    assert len(seen) > 1
    assert seen[-1].model_dump() == {"number": 7, "cargo": "coal"}


def test_iterable(client: Any, mode: str, served: Any, asked: dict[str, Any]) -> None:
    wagons = [{"number": 1, "cargo": "coal"}, {"number": 2, "cargo": "grain"}]
    listed = calls("IterableWagon", tasks=wagons)
    if "TOOLS" not in mode:
        listed = says(listed.partition("<|message|>")[2].rpartition("<|message|>")[2])
    served.plays(listed)
    assert [wagon.number for wagon in client.create_iterable(**asked)] == [1, 2]


def test_async(served: Any, asked: dict[str, Any]) -> None:
    async def work() -> tuple[Any, list[Any]]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key=served.key, max_retries=0) as sdk:
            client = instructor.from_openai(sdk, mode=instructor.Mode.TOOLS)
            served.plays(spoken("TOOLS"), spoken("TOOLS"))
            wagon = await client.create(**asked)
            return wagon, [part async for part in client.create_partial(**asked)]

    wagon, parts = asyncio.run(work())
    assert wagon.model_dump() == {"number": 7, "cargo": "coal"}
    assert parts[-1].number == 7


def test_several_calls(served: Any, asked: dict[str, Any]) -> None:
    call = spoken("TOOLS")
    served.plays(f"{call}<|call|><|start|>assistant{spoken('TOOLS', 8)}")
    sdk = openai.OpenAI(base_url=served.url, api_key=served.key, max_retries=0, timeout=20)
    client = instructor.from_openai(sdk, mode=instructor.Mode.PARALLEL_TOOLS)
    wagons = client.create(**{**asked, "response_model": Iterable[Wagon]})
    assert [wagon.number for wagon in wagons] == [7, 8]
