"""OpenAI's SDK for Node, unpatched: `make test-clients` fetches it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yardmaster.tests.clients.spoken import calls, says

HERE = Path(__file__).with_name("node")
NODE = shutil.which("node")
WAGON = '{"number": 7, "cargo": "coal"}'

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="needs node"),
    pytest.mark.skipif(not (HERE / "node_modules" / "openai").is_dir(), reason="needs `npm ci` in tests/clients/node"),
]


@pytest.fixture
def run(served: Any) -> Callable[..., Any]:
    """`run(scenario, *texts)`: what came of it while the model said `texts`."""

    def outcome(scenario: str, *texts: str) -> Any:
        served.plays(*texts)
        command = [NODE or "", "scenarios.mjs", scenario, served.url, served.key, served.model]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert served.left == []
        return json.loads(done.stdout)

    return outcome


def test_chat(run: Any, served: Any) -> None:
    told = run("chat", says("Hello 🙂"), says("Again"))
    assert (told["message"]["content"], told["message"]["reasoning_content"]) == ("Hello 🙂", "Thinking é")
    assert told["usage"]["completion_tokens"] == len(served.stage.ids(says("Hello 🙂"))) + 1
    assert told["again"] == "Again"
    assert "Hello 🙂<|end|><|start|>user<|message|>hi" in served.prompt


def test_chat_stream(run: Any, served: Any) -> None:
    told = run("chatStream", says("Hello 🙂 you"))
    assert (told["content"], told["reasoning"]) == ("Hello 🙂 you", "Thinking é")
    assert told["usage"]["completion_tokens"] == len(served.stage.ids(says("Hello 🙂 you"))) + 1
    told = run("chatStreamHelper", says("Hello 🙂 you"))
    assert told == {"final": "Hello 🙂 you", "seen": "Hello 🙂 you", "reason": "stop"}


def test_chat_parse(run: Any, served: Any) -> None:
    assert run("chatParse", says(WAGON), says(WAGON)) == [json.loads(WAGON)] * 2
    assert "cargo" in served.grammar


def test_chat_tools(run: Any, served: Any) -> None:
    told = run("chatTools", calls("tracks", yard="Zürich"), says("40 tracks"))
    assert told == {"final": "40 tracks", "roles": ["user", "assistant", "tool", "assistant"]}
    assert "functions.tracks to=assistant<|channel|>commentary<|message|>Zürich has 40" in served.prompt
    told = run("chatToolsStream", calls("tracks", yard="Zürich"), says("40 tracks"))
    assert told["final"] == "40 tracks"
    assert json.loads(told["deltas"]) == {"yard": "Zürich"}


def test_responses(run: Any, served: Any) -> None:
    told = run("responses", says("Hello 🙂"), says("Again"))
    assert told == {
        "texts": ["Hello 🙂", "Again", "Hello 🙂"],
        "types": ["reasoning", "message"],
        "items": ["message"],
        "gone": "NotFoundError",
    }


def test_responses_stream(run: Any) -> None:
    told = run("responsesStream", says("Hello 🙂 you"), says(WAGON))
    assert (told["text"], told["shaped"]) == ("Hello 🙂 you", json.loads(WAGON))
    assert (told["types"][0], told["types"][-1]) == ("response.created", "response.completed")
    assert "response.reasoning_text.delta" in told["types"]


def test_responses_parse_and_tools(run: Any, served: Any) -> None:
    assert run("responsesParse", says(WAGON)) == json.loads(WAGON)
    assert "cargo" in served.grammar
    told = run("responsesTools", calls("tracks", yard="Zürich"), says("40 tracks"))
    assert told["text"] == "40 tracks"
    assert json.loads(told["arguments"]) == {"yard": "Zürich"}


def test_completions_and_models(run: Any, served: Any) -> None:
    assert run("completions", "a text", "a text") == ["a text"] * 2
    assert run("models") == [[served.model], served.model]


def test_errors(run: Any) -> None:
    assert run("errors") == [
        ["BadRequestError", 400, "invalid_value", "top_p", True],
        ["NotFoundError", 404, "model_not_found", "model", True],
        ["AuthenticationError", 401, "invalid_api_key", None, True],
    ]


def test_leaving_a_stream_aborts(run: Any, served: Any) -> None:
    engine = served.stage.engine
    with served.playing("<|channel|>final<|message|>" + "word " * 500, pause=0.01):
        assert run("abort") is True
        deadline = time.monotonic() + 5
        while not engine.aborted:
            assert time.monotonic() < deadline
            time.sleep(0.005)
