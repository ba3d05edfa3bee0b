"""Every answer to every scene, whole and streamed, on every route that can play it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from yardmaster.tests.server.specs import course
from yardmaster.tests.server.specs.scenes import FINAL, SCENES, THOUGHT, TO_WEATHER, Route, Scene
from yardmaster.tests.server.specs.wire import events, talk

Hold = Callable[[str, Any], Any]

PATHS: dict[Route, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "response": "/v1/responses",
    "message": "/v1/messages",
}


@pytest.mark.parametrize("scene", SCENES, ids=str)
@pytest.mark.parametrize("size", [1, 1000])
def test_answers(scene: Scene, size: int, request: Any, hold: Hold) -> None:
    stage = request.getfixturevalue("harmony" if scene.harmony else "plain")
    stage.engine.script = scene.script(stage, size)
    fails = scene.fails is not None

    async def play(client: httpx.AsyncClient) -> None:
        for route in scene.routes:
            body = scene.body(route)
            whole = await client.post(PATHS[route], json=body)
            assert (whole.status_code >= 400) == fails, whole.text
            if fails:
                hold("message error" if route == "message" else "error", whole.json())
            else:
                answer = hold(route, whole.json())
                assert route != "response" or not list(course.ended(answer))
            streamed = await client.post(PATHS[route], json=body | {"stream": True} | scene.streams)
            HOLD[route](events(streamed), hold, fails)

    talk(stage.app(format=scene.format), play)


FRAGMENTS = (
    "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>", "assistant", "analysis", "final",
    "commentary", " to=functions.get_weather", " to=functions.now json", '{"city": ', "Zürich", "🙂", " ", "user",
    "{}", THOUGHT, FINAL, TO_WEATHER,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_any_output(seed: int, harmony: Any, hold: Hold) -> None:
    """Whatever a model makes of Harmony, whole and in pieces of any size."""
    draw = random.Random(seed)

    async def play(client: httpx.AsyncClient) -> None:
        for _ in range(4):
            text = "".join(draw.choices(FRAGMENTS, k=draw.randrange(1, 25)))
            scene = Scene("any", text, finish=draw.choice(["stop", "length"]), tools=True, lacks=draw.randrange(2))
            harmony.engine.script = scene.script(harmony, draw.choice([1, 2, 7, 1000]))
            for route in scene.routes:
                body = scene.body(route)
                answer = await client.post(PATHS[route], json=body)
                assert answer.status_code == 200, answer.text
                hold(route, answer.json())
                HOLD[route](events(await client.post(PATHS[route], json=body | {"stream": True})), hold, False)

    talk(harmony.app(), play)


def _chunks(kind: str) -> Callable[[list[Any], Hold, bool], None]:
    def check(found: list[Any], hold: Hold, fails: bool) -> None:
        for place, chunk in enumerate(found):
            failure = fails and place == len(found) - 1
            hold("error" if failure else kind, chunk)
        assert fails == ("error" in found[-1])

    return check


def _response_events(found: list[Any], hold: Hold, fails: bool) -> None:
    for event in found:
        hold("response event", event)
        if "response" in event:
            hold("response", event["response"])
    assert not course.faults(found)
    assert fails == (found[-1]["type"] == "response.failed")


def _message_events(found: list[Any], hold: Hold, fails: bool) -> None:
    for event in found:
        hold("message event", event)
    assert found[-1]["type"] == ("error" if fails else "message_stop")


HOLD: dict[Route, Callable[[list[Any], Hold, bool], None]] = {
    "chat": _chunks("chat chunk"),
    "completion": _chunks("completion chunk"),
    "response": _response_events,
    "message": _message_events,
}
