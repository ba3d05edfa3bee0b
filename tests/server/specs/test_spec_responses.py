"""What /v1/responses keeps, tells of a request, and plays again: every body of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from yardmaster.engine.messages import RequestOutput
from yardmaster.tests.server.specs import course
from yardmaster.tests.server.specs.scenes import FINAL, FUNCTION, OTHER, SCHEMA, THOUGHT, TO_WEATHER
from yardmaster.tests.server.specs.wire import events, talk

Hold = Callable[[str, Any], Any]

PATH = "/v1/responses"
TOOLS = [{"type": "function", **each} for each in (FUNCTION, OTHER)]
ANSWER = f"{THOUGHT}{FINAL}Hello"


def test_what_was_asked_is_told(harmony: Any, hold: Hold) -> None:
    """Every field that comes back, at its extremes."""
    harmony.engine.script = harmony.say(ANSWER)
    strict = {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": True, "description": "b"}
    asked: list[dict[str, Any]] = [
        {},
        {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s"},
        {"temperature": 0, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2.0},
        {"temperature": 2, "top_p": 0.01, "max_output_tokens": 1, "max_tool_calls": 1, "prompt_cache_key": "k"},
        {"reasoning": {"effort": "low", "summary": "auto"}, "truncation": "disabled", "service_tier": "flex"},
        {"reasoning": {"generate_summary": "concise"}, "store": False, "prompt_cache_retention": "24h"},
        {"tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False},
        {"tools": [{"type": "function", "name": "f", "parameters": None, "strict": True}]},
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "now"}]}},
        {"text": {"verbosity": "medium"}},
        {"text": {"format": {"type": "text"}}},
    ]

    async def say(client: httpx.AsyncClient) -> None:
        for fields in asked:
            answer = await client.post(PATH, json={"input": "hi"} | fields)
            assert answer.status_code == 200, answer.text
            hold("response", answer.json())
        harmony.engine.script = harmony.say(f'{FINAL}{{"city": "Ulm"}}')
        for format in (strict, {"type": "json_object"}, strict | {"strict": None, "description": None}):
            answer = await client.post(PATH, json={"input": "hi", "text": {"format": format}})
            assert answer.status_code == 200, answer.text
            told = hold("response", answer.json())["text"]["format"]
            assert told == format | ({"strict": format["strict"] is True} if "strict" in format else {})

    talk(harmony.app(), say)


def test_input_items(harmony: Any, hold: Hold) -> None:
    """Of every type, as the models made them and as clients may write them."""
    harmony.engine.script = harmony.say(THOUGHT + TO_WEATHER)
    items = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "input_text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"type": "message", "role": "system", "content": "d"},
        {"type": "message", "role": "developer", "content": "e", "id": "msg_mine", "status": "completed"},
        {"role": "assistant", "content": "f"},
        {"role": "assistant", "phase": "commentary", "content": [{"type": "output_text", "text": "g"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "h"}], "status": "incomplete"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "i"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "j"}]},
        {"type": "function_call", "call_id": "k", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "k", "output": "l"},
        {"type": "function_call", "call_id": "m", "name": "now", "arguments": "no JSON", "status": "incomplete"},
        {"type": "function_call_output", "call_id": "m", "output": [{"type": "input_text", "text": "n"}]},
    ]  # fmt: skip

    async def say(client: httpx.AsyncClient) -> None:
        first = hold("response", (await client.post(PATH, json={"input": items, "tools": TOOLS})).json())
        call = first["output"][-1]
        back = [{"type": "item_reference", "id": each["id"]} for each in first["output"]]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        again = hold("response", (await client.post(PATH, json={"input": [*back, result], "tools": TOOLS})).json())
        bare = hold(
            "response", (await client.post(PATH, json={"previous_response_id": first["id"], "input": []})).json()
        )
        for response, count in ((first, len(items)), (again, len(back) + 1), (bare, 0)):
            path = f"{PATH}/{response['id']}"
            assert hold("response", (await client.get(path)).json()) == response
            seen = []
            page: dict[str, Any] = {"has_more": True}
            while page["has_more"]:
                query = {"limit": 4, "order": "asc"} | ({"after": seen[-1]["id"]} if seen else {})
                page = hold("input items", (await client.get(f"{path}/input_items", params=query)).json())
                seen += page["data"]
            assert len(seen) == count
        hold("input tokens", (await client.post(f"{PATH}/input_tokens", json={"input": items})).json())
        gone = (await client.delete(path)).json()  # neither document nor SDK has a type for it
        assert gone == {"id": bare["id"], "object": "response", "deleted": True}

    talk(harmony.app(), say)


@pytest.mark.parametrize("ends", ["completed", "cancelled", "failed", "incomplete"])
def test_in_the_background(harmony: Any, hold: Hold, ends: str) -> None:
    """Queued, on its way, over; and its events, from the first and from any later one."""
    told = harmony.say(ANSWER, "length" if ends == "incomplete" else "stop")

    def script(submit: Any) -> Any:
        outputs = list(told(submit))
        yield from outputs[:-1]
        if ends == "cancelled":
            yield 60.0
        yield RequestOutput(request_id="", finish_reason="error") if ends == "failed" else outputs[-1]

    harmony.engine.script = script

    async def say(client: httpx.AsyncClient) -> None:
        started = hold("response", (await client.post(PATH, json={"input": "hi", "background": True})).json())
        assert started["status"] == "queued"
        path = f"{PATH}/{started['id']}"
        for _ in range(10):
            await asyncio.sleep(0.01)
            response = hold("response", (await client.get(path)).json())
        if ends == "cancelled":
            assert response["status"] == "in_progress"
            hold("response", (await client.post(f"{path}/cancel")).json())
        response = hold("response", (await client.get(path)).json())
        assert response["status"] == ends
        assert not list(course.ended(response))
        assert hold("response", (await client.post(f"{path}/cancel")).json()) == response

    talk(harmony.app(), say)
    if ends == "cancelled":
        return

    async def follow(client: httpx.AsyncClient) -> None:
        body = {"input": "hi", "background": True, "stream": True}
        found = events(await client.post(PATH, json=body))
        assert [event["type"] for event in found[:3]] == ["response.created", "response.queued", "response.in_progress"]
        path = f"{PATH}/{found[0]['response']['id']}"
        for first in (0, 1, len(found) // 2, len(found) - 1):
            query = {"stream": "true"} | ({"starting_after": first - 1} if first else {})
            assert events(await client.get(path, params=query)) == found[first:]
        assert not course.faults(found)
        for event in found:
            hold("response event", event)
        assert found[-1]["response"]["status"] == ends

    talk(harmony.app(), follow)


def test_a_response_whose_server_is_gone(harmony: Any, hold: Hold, tmp_path: Path) -> None:
    harmony.engine.script = lambda submit: iter([60.0])
    path = tmp_path / "responses.sqlite"

    async def lose(client: httpx.AsyncClient) -> None:
        started = (await client.post(PATH, json={"input": "hi", "background": True})).json()
        with contextlib.closing(sqlite3.connect(path)) as rows, rows:
            rows.execute("UPDATE responses SET lease = 0")
        async with httpx.AsyncClient(transport=other, base_url="http://other") as elsewhere:
            response = hold("response", (await elsewhere.get(f"{PATH}/{started['id']}")).json())
        assert response["status"] == "failed"
        assert not list(course.ended(response))

    other = httpx.ASGITransport(harmony.app(response_store=str(path)))
    talk(harmony.app(response_store=str(path)), lose)


@pytest.mark.parametrize("size", [1, 3])
def test_cut_off_after_any_token(harmony: Any, hold: Hold, size: int) -> None:
    """Whatever was being said, the stream keeps its order and ends with what it told."""
    text = (
        f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{TO_WEATHER}<|call|><|start|>assistant"
        f"{ANSWER}"
    )
    ids = harmony.ids(text)

    async def say(client: httpx.AsyncClient) -> None:
        for count in range(1, len(ids), 1 if size == 1 else 5):
            harmony.engine.script = lambda submit, count=count: (
                RequestOutput(
                    request_id=submit.request_id,
                    token_ids=ids[at : min(at + size, count)],
                    finish_reason="length" if at + size >= count else None,
                )
                for at in range(0, count, size)
            )
            found = events(await client.post(PATH, json={"input": "hi", "tools": TOOLS, "stream": True}))
            assert not course.faults(found)
            assert found[-1]["type"] == "response.incomplete"
            hold("response event", found[-1])

    talk(harmony.app(), say)


@pytest.mark.parametrize("background", [False, True])
def test_for_clients_of_open_responses(harmony: Any, hold: Hold, background: bool) -> None:
    """Who names that specification gets its events, where OpenAI gives them another name."""
    harmony.engine.script = harmony.say(ANSWER)

    async def say(client: httpx.AsyncClient) -> None:
        body = {"input": "hi", "stream": True, "background": background}
        found = events(await client.post(PATH, json=body, headers={"OpenResponses-Version": "latest"}))
        assert not course.faults(found, reasoning="reasoning")
        assert {"response.reasoning.delta", "response.reasoning.done"} < {event["type"] for event in found}
        for event in found:
            hold("open responses event", event)
        again = events(await client.post(PATH, json=body))
        assert not course.faults(again)

    talk(harmony.app(), say)


def test_what_comes_at_once_is_one_event(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER, size=1000)

    async def say(client: httpx.AsyncClient) -> None:
        found = events(await client.post(PATH, json={"input": "hi", "stream": True}))
        deltas = [(event["type"], event["delta"]) for event in found if event["type"].endswith(".delta")]
        assert deltas == [("response.reasoning_text.delta", "Think é🙂"), ("response.output_text.delta", "Hello")]

    talk(harmony.app(), say)


def test_conversations_of_the_acceptance_tests(harmony: Any, hold: Hold) -> None:
    """What Open Responses asks a server in its own tests, without pictures, sockets and compaction."""
    harmony.engine.script = harmony.say(ANSWER)

    def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
        return {"type": "message", "role": role, "content": content, **fields}

    user = said("user", "And now?")
    conversations = [
        [user],
        [said("system", "You are a pirate."), user],
        [said("user", "I am Alice."), said("assistant", "Hello Alice."), user],
        [
            user, said("assistant", "I look.", phase="commentary"),
            said("assistant", [{"type": "output_text", "text": "Found."}], phase="final_answer"), user,
        ],
    ]  # fmt: skip

    async def say(client: httpx.AsyncClient) -> None:
        for conversation in conversations:
            answer = await client.post(PATH, json={"model": "test-model", "input": conversation})
            assert hold("response", answer.json())["status"] == "completed"
            assert answer.json()["output"]

    talk(harmony.app(), say)
