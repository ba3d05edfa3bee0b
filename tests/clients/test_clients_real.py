"""Clients against `yardmaster serve` with random weights: whatever such a model says, what they ask for they get."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import openai
import pytest
import tokenizers
from pydantic import BaseModel, Field

instructor = pytest.importorskip("instructor", reason="needs the extra `clients`")
langchain_openai = pytest.importorskip("langchain_openai", reason="needs the extra `clients`")
litellm = pytest.importorskip("litellm", reason="needs the extra `clients`")
errors = pytest.importorskip("instructor.core")

HOT: dict[str, Any] = {"temperature": 20.0, "max_tokens": 120}
HELLO: Any = [{"role": "user", "content": "A wagon."}]
SEEDS = range(4)


class Wagon(BaseModel, extra="forbid"):  # else such a model adds fields for ever
    """A wagon."""

    number: int = Field(ge=1, le=40)
    cargo: Literal["coal", "grain"]
    loaded: bool


@pytest.fixture(scope="module")
def bias(checkpoint: Path) -> dict[str, int]:
    """Against what a random model does for ever: to think, to write preambles, and to fill JSON with spaces."""
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    texts = {token: tokenizer.decode([token], skip_special_tokens=False) for token in range(700)}
    unloved = [token for token, text in texts.items() if text.isspace() or "analysis".startswith(text)]
    unloved.append(tokenizer.token_to_id("<|message|>"))  # at once behind "commentary", where a call could follow
    return {str(token): -100 for token in unloved}


def enough(wagons: list[Any]) -> None:
    """Most came out, and they are not all one: some seeds go on until they are cut off."""
    assert len(wagons) > len(SEEDS) // 2
    assert len({str(wagon) for wagon in wagons}) > 1


@pytest.mark.parametrize("mode", ["JSON_SCHEMA", "TOOLS", "TOOLS_STRICT"])
def test_instructor(url: str, bias: dict[str, int], mode: str) -> None:
    sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    client = instructor.from_openai(sdk, mode=instructor.Mode[mode])
    wagons = []
    for seed in SEEDS:
        try:
            wagon = client.create(
                model="tiny", messages=HELLO, response_model=Wagon, max_retries=1, seed=seed, logit_bias=bias, **HOT
            )
        except errors.IncompleteOutputException:
            continue
        wagons.append(wagon)
    enough(wagons)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain(url: str, bias: dict[str, int], method: str) -> None:
    wagons = []
    for seed in SEEDS:
        model = langchain_openai.ChatOpenAI(
            model="tiny", base_url=f"{url}/v1", api_key="none", max_retries=0, seed=seed, logit_bias=bias, **HOT
        )
        try:
            wagons.append(model.with_structured_output(Wagon, method=method).invoke("A wagon."))
        except openai.LengthFinishReasonError:
            continue
    enough([wagon for wagon in wagons if wagon is not None])


def test_litellm_streams_what_it_gets_whole(url: str, bias: dict[str, int]) -> None:
    asked: dict[str, Any] = {
        "model": "hosted_vllm/tiny",
        "api_base": f"{url}/v1",
        "api_key": "none",
        **HOT,
        "max_tokens": 40,
    }
    for seed in range(3):
        more = {"messages": HELLO, "seed": seed, "logit_bias": bias}
        whole = litellm.completion(**asked, **more).choices[0]
        chunks = list(litellm.completion(stream=True, **asked, **more))
        built = litellm.stream_chunk_builder(chunks).choices[0]
        assert (built.message.content or "") == (whole.message.content or "")
        assert built.finish_reason == whole.finish_reason
        thoughts = [getattr(each.message, "reasoning_content", None) or "" for each in (built, whole)]
        assert thoughts[0] == thoughts[1]
