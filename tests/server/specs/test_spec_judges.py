"""The judges themselves: what is right they let pass, and of what is wrong they say so."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest

from yardmaster.tests.server.specs import course
from yardmaster.tests.server.specs.scenes import FUNCTION, THOUGHT, TO_WEATHER
from yardmaster.tests.server.specs.sdk_judge import SdkJudge
from yardmaster.tests.server.specs.wire import events, talk

MISSING = object()
TEXT = f"{THOUGHT}<|channel|>commentary<|message|>I act.<|end|><|start|>assistant{TO_WEATHER}"
WRONG: list[tuple[str, tuple[Any, ...], Any]] = [
    ("chat", ("id",), MISSING),
    ("chat", ("object",), "chat.completion.chunk"),
    ("chat", ("created",), "1"),
    ("chat", ("choices",), {}),
    ("chat", ("choices", 0, "finish_reason"), "abort"),
    ("chat", ("choices", 0, "finish_reason"), None),
    ("chat", ("choices", 0, "message", "role"), "user"),
    ("chat", ("choices", 0, "message", "tool_calls", 0, "function", "arguments"), {}),
    ("chat", ("choices", 0, "message", "tool_calls", 0, "id"), MISSING),
    ("chat", ("choices", 0, "message", "tool_calls", 0, "type"), "functions"),
    ("chat", ("usage", "prompt_tokens"), "1"),
    ("chat chunk", ("object",), "chat.completion"),
    ("chat chunk", ("choices", 0, "delta"), MISSING),
    ("chat chunk", ("choices", 0, "delta", "role"), "model"),
    ("response", ("object",), "responses"),
    ("response", ("output",), MISSING),
    ("response", ("output", 0, "type"), "thought"),
    ("response", ("output", 0, "summary"), MISSING),
    ("response", ("output", 1, "content", 0, "type"), "html"),
    ("response", ("output", 1, "content", 0, "annotations"), MISSING),
    ("response", ("output", 2, "call_id"), MISSING),
    ("response", ("output", 2, "arguments"), {}),
    ("response", ("tool_choice",), MISSING),
    ("response", ("tools", 0, "type"), "tool"),
    ("response", ("usage", "input_tokens_details"), MISSING),
    ("response", ("text", "format", "type"), "xml"),
    ("response event", ("type",), "response.done"),
    ("response event", ("sequence_number",), MISSING),
    ("response event", ("response", "object"), "event"),
]


def changed(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    body = copy.deepcopy(body)
    *way, last = place
    node = body
    for step in way:
        node = node[step]
    assert last in node or value is not MISSING
    if value is MISSING:
        del node[last]
    else:
        node[last] = value
    return body


@pytest.fixture
def right(harmony: Any) -> dict[str, Any]:
    """A good body of some kinds, with one of everything in it."""
    harmony.engine.script = harmony.say(TEXT)
    chat = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "function": FUNCTION}]}
    response = {"input": "hi", "tools": [{"type": "function", **FUNCTION}]}

    async def say(client: httpx.AsyncClient) -> dict[str, Any]:
        return {
            "chat": (await client.post("/v1/chat/completions", json=chat)).json(),
            "chat chunk": events(await client.post("/v1/chat/completions", json=chat | {"stream": True}))[0],
            "response": (await client.post("/v1/responses", json=response)).json(),
            "stream": events(await client.post("/v1/responses", json=response | {"stream": True})),
        }

    bodies: dict[str, Any] = talk(harmony.app(), say)
    return bodies | {"response event": bodies["stream"][0]}


def overlooked(judge: Any, right: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    wrong = [each for each in WRONG if each[0].startswith(names)]
    assert not [judge.faults(kind, right[kind]) for kind, *_ in wrong if judge.faults(kind, right[kind])]
    return [each for each in wrong if not judge.faults(each[0], changed(right[each[0]], *each[1:]))]


def test_the_sdks_types(right: dict[str, Any]) -> None:
    judge = SdkJudge()
    assert not overlooked(judge, right, ("chat", "response"))
    for kind, place in (("chat", ("choices", 0)), ("response", ("output", 1)), ("response event", ("response",))):
        assert judge.faults(kind, changed(right[kind], (*place, "new"), 1))
    chunk = {"id": "a", "object": "text_completion", "created": 1, "model": "m", "choices": []}
    choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
    assert not judge.faults("completion chunk", chunk | {"choices": [choice]})
    assert judge.faults("completion", chunk | {"choices": [choice]})
    assert judge.faults("completion chunk", chunk | {"choices": [choice | {"finish_reason": "abort"}]})


def test_openais_document(right: dict[str, Any], openai_document: Any) -> None:
    assert not overlooked(openai_document, right, ("chat", "response"))


def test_the_open_responses_document(right: dict[str, Any], open_responses_document: Any) -> None:
    assert not overlooked(open_responses_document, right, ("response",))


def renumbered(stream: list[Any]) -> list[Any]:
    return [event | {"sequence_number": number} for number, event in enumerate(stream)]


def test_the_course_of_events(right: dict[str, Any]) -> None:
    """No event can be left out, come twice, or come before the one that it follows."""
    stream = right["stream"]
    assert not course.faults(stream)
    assert course.faults(stream[1:])
    assert not course.faults(stream[5:], 5)
    assert course.faults([*stream[:5], *stream[6:]])
    for place in range(len(stream)):
        assert course.faults(renumbered([*stream[:place], *stream[place + 1 :]])), place
        assert course.faults(renumbered([*stream[:place], stream[place], *stream[place:]])), place
        before, after = stream[place : place + 1], stream[place + 1 : place + 2]
        if after:
            assert course.faults(renumbered([*stream[:place], *after, *before, *stream[place + 2 :]])), place


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("status",), "incomplete"),
        (("status",), "failed"),
        (("completed_at",), None),
        (("error",), {"code": "server_error", "message": "a"}),
        (("incomplete_details",), {"reason": "max_output_tokens"}),
        (("output", 0, "status"), "incomplete"),
        (("output", 2, "status"), "incomplete"),
        (("output", 1, "status"), "in_progress"),
    ],
)
def test_how_a_response_ends(right: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    response = right["response"]
    assert not list(course.ended(response))
    assert list(course.ended(changed(response, place, value)))
