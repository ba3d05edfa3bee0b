"""The embedded model behind the real server, on several layouts of ranks: right answers, each to the one who asked."""

import asyncio
import json
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from yardmaster import LLM, SamplingParams
from yardmaster.demo.checking import check
from yardmaster.server.engine_settings import demo_directory

SMALL = ["--max-model-len", "2048", "--kv-cache-memory-bytes", str(64 << 20), "--num-cpu-threads", "1"]
LAYOUTS = {
    "one rank": [],
    "two ranks": ["--dp", "2"],
    "two ranks, bfloat16": ["--tp", "2", "--expert-dtype", "bfloat16"],
    "four ranks": ["--tp", "2", "--dp", "2"],
}
SHOWN = {  # as README.md and the model card show them
    "What is 347 + 85?": "347 + 85 = 432",
    "Reverse the word lantern.": "nretnal",
    "Spell the word yard.": "y-a-r-d",
    "Sort 42, 7 and 19.": "7, 19, 42",
    "What month comes after March?": "April comes after March.",
}
UNLIKE = [100 * a + 10 * b + (a + 3 * b) % 10 for a in range(1, 10) for b in range(10)]  # by two digits and more
SHOWN_KINDS = ("sums", "reverse", "spell", "sorting", "calendar")


@pytest.fixture(scope="module", params=LAYOUTS)
def url(request, tmp_path_factory):
    with _served(tmp_path_factory.mktemp("served"), LAYOUTS[request.param]) as url:
        yield url


@contextmanager
def _served(folder, flags):
    """A server with no model named, and where it listens."""
    log = (folder / "log").open("w+")
    command = [sys.executable, "-m", "yardmaster", "serve", "--port", "0", *SMALL, *flags]
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server:
        try:
            yield _address(server, Path(log.name))
        finally:
            server.terminate()
            assert server.wait(60) == 0


def _address(server, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        for line in log.read_text().splitlines():
            if "ready:" in line:
                return "http://" + line.split("http://")[1].split()[0].rstrip("/")
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _asked(url, *bodies):
    """The messages that answer them, asked for at once."""

    async def ask():
        async with httpx.AsyncClient(timeout=120) as client:
            every = await asyncio.gather(*(client.post(f"{url}/v1/chat/completions", json=body) for body in bodies))
        return [response.json()["choices"][0]["message"] for response in every]

    return asyncio.run(ask())


def test_what_the_readme_shows(url):
    answers = _asked(url, *({"messages": [{"role": "user", "content": question}]} for question in SHOWN))
    assert [message["content"] for message in answers] == list(SHOWN.values())


def test_effort_decides_whether_it_thinks(url):
    said = [{"role": "user", "content": "What is 347 + 85?"}]
    low, high = _asked(url, *({"messages": said, "reasoning_effort": effort} for effort in ("low", "high")))
    assert not low.get("reasoning_content")
    assert high["reasoning_content"]


def test_a_function_is_called_and_its_result_told(url):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "description": "The weather in a city.", "parameters": schema}
    said = [{"role": "user", "content": "What is the weather in Paris?"}]
    body = {"messages": said, "tools": [{"type": "function", "function": function}]}
    message = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Paris"})
    said += [message, {"role": "tool", "tool_call_id": call["id"], "content": '{"temperature": 18, "sky": "cloudy"}'}]
    told = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]["message"]["content"]
    assert "18" in told
    assert "cloudy" in told


def test_32_conversations_at_once_none_crossed(url):
    """Each remembers a number of its own, told far before its window; half of the answers are streamed."""
    asyncio.run(_conversations(url))


async def _conversations(url):
    async with httpx.AsyncClient(timeout=120) as client:
        numbers = random.Random().sample(UNLIKE, 32)
        answers = await asyncio.gather(*(_remember(client, url, n, i % 2 == 0) for i, n in enumerate(numbers)))
    said = sum(answer == f"Your lucky number is {n}." for n, answer in zip(numbers, answers, strict=True))
    strangers = [a for n, a in zip(numbers, answers, strict=True) if any(str(o) in a for o in numbers if o != n)]
    assert not strangers
    assert said >= 28  # it is a small model, and errs (its card says how often), but never with another's number


async def _remember(client, url, number, stream):
    said = [{"role": "user", "content": f"My lucky number is {number}."}]
    for question in ("What day comes after Monday?", "Please spell the word yard.", "What is my lucky number?"):
        body = {"messages": said, "reasoning_effort": "low", "max_tokens": 60}  # one that errs may not end
        answer = (await client.post(f"{url}/v1/chat/completions", json=body)).json()["choices"][0]["message"]["content"]
        said += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    body = {"messages": said, "stream": stream, "max_tokens": 60}
    if not stream:
        return (await client.post(f"{url}/v1/chat/completions", json=body)).json()["choices"][0]["message"]["content"]
    text = ""
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    return text


def test_no_model_named_in_python():
    with LLM(max_model_len=512, kv_cache_memory_bytes=8 << 20, num_cpu_threads=1) as llm:
        (result,) = llm.chat(
            [[{"role": "user", "content": "Reverse the word lantern."}]], SamplingParams(max_tokens=60)
        )
        assert "nretnal" in result.outputs[0].text


def test_it_fits_and_is_what_it_says():
    files = list(demo_directory().iterdir())
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    config = json.loads((demo_directory() / "config.json").read_text())
    assert config["model_type"] == "gpt_oss"
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    assert config["num_local_experts"] >= 16
    assert config["num_experts_per_tok"] == 4
    assert {"README.md", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("experts", ["mxfp4", "bfloat16"])
def test_answers_to_held_out_questions(experts, tmp_path):
    """200 of each kind at every effort: 95 % right, calls 90 %, and what README.md shows 99 %."""
    with _served(tmp_path, ["--expert-dtype", experts]) as url:
        shares = check(f"{url}/v1", 200, 32)
    least = dict.fromkeys(shares, 0.95) | dict.fromkeys(SHOWN_KINDS, 0.99) | {"tools": 0.90, "tools_unseen": 0.0}
    wrong = {
        f"{kind} {effort}": share
        for kind, efforts in shares.items()
        for effort, share in efforts.items()
        if share < least[kind]
    }
    assert not wrong
