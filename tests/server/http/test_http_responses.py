"""/v1/responses as a client of the ASGI application sees it: bodies, events, conversations, refusals."""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import random
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from yardmaster.engine.messages import RequestOutput, Submit, TokenLogprob
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.http.choice import Choice
from yardmaster.server.http.generation import Generation
from yardmaster.server.http.notes import FormatNotes
from yardmaster.server.http.service import Service
from yardmaster.server.http.splitter import CallDelta, HarmonySplitter, Split
from yardmaster.server.responses import runs
from yardmaster.server.responses.events import Narrator
from yardmaster.server.responses.items import conversation
from yardmaster.server.responses.store import ResponseStore, StoreConfig

THOUGHT = "<|channel|>analysis<|message|>Think é🙂<|end|><|start|>assistant"
ANSWER = THOUGHT + "<|channel|>final<|message|>Hello wörld🙂"
CALL = (
    f"{THOUGHT}<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Zürich"}'
)
TWO_CALLS = (
    '<|channel|>commentary to=functions.get_weather json<|message|>{"city": "Ulm"}<|call|><|start|>assistant'
    "<|channel|>analysis<|message|>And now?<|end|><|start|>assistant to=functions.now<|channel|>commentary<|message|>{}"
)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
NOW = {"type": "function", "name": "now"}
KEYS = ("sk-first-key-000000", "sk-second-key-00000")
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]


def talk(app: Any, say: Talk, key: str | None = None) -> Any:
    """Several requests to one application on one event loop."""

    async def go() -> Any:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test/v1", headers=headers) as client:
            return await say(client)

    return anyio.run(go)


def post(stage: Any, body: Any, path: str = "/responses", **config: Any) -> httpx.Response:
    async def say(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(path, json={"input": "hi"} | body if isinstance(body, dict) else body)

    answer: httpx.Response = talk(stage.app(**config), say)
    return answer


def whole(stage: Any, body: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    response = post(stage, body or {}, **config)
    assert response.status_code == 200, response.text
    resource: dict[str, Any] = response.json()
    Response.model_validate(resource)
    return resource


def streamed(response: httpx.Response, first: int = 0) -> list[dict[str, Any]]:
    """The events of a stream, each held against the SDK's own types and against its number."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    events = []
    for number, block in enumerate(blocks[:-2], first):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        known = EVENTS.validate_python(event)
        assert known.type == event["type"]
        assert not set(event) - set(type(known).model_fields) - {"name"}
        events.append(event)
    return events


def rebuilt(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a client makes of the deltas; on the way, the order in which events may come is checked."""
    output: list[dict[str, Any]] = []
    text: str | None = None  # of the part or the arguments that are open
    part = False
    for event in copy.deepcopy(events):
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            assert text is None
            output.append(event["item"])
            assert event["item"]["status"] == "in_progress"
            if event["item"]["type"] == "function_call":
                assert event["item"]["arguments"] == ""
                text = ""
            else:
                assert event["item"]["content"] == []
        elif kind in ("created", "queued", "in_progress", "completed", "incomplete", "failed"):
            assert text is None
        else:
            assert event["output_index"] == len(output) - 1
            if "item_id" in event:
                assert event["item_id"] == output[-1]["id"]
            if kind == "content_part.added":
                assert text is None
                text, part = "", True
            elif kind.endswith(".delta"):
                assert text is not None
                assert event["delta"]
                text += event["delta"]
            elif kind in ("output_text.done", "reasoning_text.done"):
                assert event["text"] == text
            elif kind == "function_call_arguments.done":
                assert event["arguments"] == text
                output[-1]["arguments"], text = text, None
            elif kind == "content_part.done":
                assert event["part"]["text"] == text
                output[-1]["content"].append(event["part"])
                text, part = None, False
            else:
                assert kind == "output_item.done"
                assert not part
                assert text is None
                assert event["item"] == output[-1] | {"status": event["item"]["status"]} | {
                    name: event["item"][name] for name in ("encrypted_content",) if name in event["item"]
                }
                output[-1] = event["item"]
    return output


def bare(output: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Without what is drawn at random."""
    found: list[tuple[Any, ...]] = []
    for item in output:
        if item["type"] == "function_call":
            assert item["id"].startswith("fc_")
            assert item["call_id"].startswith("call_")
            found.append(("call", item["name"], item["arguments"], item["status"]))
        else:
            kind = item.get("phase", item["type"])
            found.append((kind, "".join(part["text"] for part in item["content"]), item["status"]))
    return found


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("text", "tools", "expected"),
    [
        (ANSWER, [], [("reasoning", "Think é🙂", "completed"), ("final_answer", "Hello wörld🙂", "completed")]),
        (
            CALL,
            [WEATHER, NOW],
            [
                ("reasoning", "Think é🙂", "completed"),
                ("commentary", "I look.", "completed"),
                ("call", "get_weather", '{"city": "Zürich"}', "completed"),
            ],
        ),
        (
            TWO_CALLS,
            [WEATHER, NOW],
            [
                ("call", "get_weather", '{"city": "Ulm"}', "completed"),
                ("reasoning", "And now?", "completed"),
                ("call", "now", "{}", "completed"),
            ],
        ),
        ("", [], []),
        ("No header", [], [("final_answer", "No header", "completed")]),
    ],
)
def test_items_whole_and_streamed(harmony: Any, size: int, text: str, tools: Any, expected: Any) -> None:
    harmony.engine.script = harmony.say(text, size=size)
    resource = whole(harmony, {"tools": tools})
    assert bare(resource["output"]) == expected
    assert (resource["status"], resource["error"], resource["incomplete_details"]) == ("completed", None, None)
    assert resource["completed_at"] >= resource["created_at"]
    events = streamed(post(harmony, {"tools": tools, "stream": True}))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["status"] == "in_progress"
    assert events[-1]["type"] == "response.completed"
    assert rebuilt(events) == events[-1]["response"]["output"]
    assert bare(rebuilt(events)) == expected
    assert events[-1]["response"]["usage"] == resource["usage"]


def test_usage(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER)
    usage = whole(harmony)["usage"]
    prompt, total = len(harmony.engine.submitted[0].prompt_token_ids), len(harmony.ids(ANSWER)) + 1
    assert usage == {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": total,
        "output_tokens_details": {"reasoning_tokens": len(harmony.ids("Think é🙂"))},
        "total_tokens": prompt + total,
    }
    counted = post(harmony, {}, "/responses/input_tokens").json()
    assert counted == {"object": "response.input_tokens", "input_tokens": prompt}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_off(harmony: Any, stream: bool) -> None:
    harmony.engine.script = harmony.say(ANSWER, finish="length")
    response = post(harmony, {"stream": stream, "max_output_tokens": 9})
    if stream:
        events = streamed(response)
        assert events[-1]["type"] == "response.incomplete"
        resource = events[-1]["response"]
        assert rebuilt(events) == resource["output"]
    else:
        resource = response.json()
    assert resource["status"] == "incomplete"
    assert resource["incomplete_details"] == {"reason": "max_output_tokens"}
    assert resource["completed_at"] is None
    assert [item["status"] for item in resource["output"]] == ["completed", "incomplete"]
    assert harmony.engine.submitted[0].params.max_tokens == 9


def test_a_plain_model(plain: Any) -> None:
    plain.engine.script = plain.say("Plain 你好 text", size=3)
    assert bare(whole(plain)["output"]) == [("final_answer", "Plain 你好 text", "completed")]
    events = streamed(post(plain, {"stream": True, "instructions": "Be brief."}))
    assert bare(rebuilt(events)) == [("final_answer", "Plain 你好 text", "completed")]
    prompt = plain.tokenizer.decode(plain.engine.submitted[-1].prompt_token_ids, False)
    assert prompt == "system: Be brief.\nuser: hi\nassistant: "
    response = post(plain, {"tools": [NOW]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")


def test_what_was_asked_is_told(harmony: Any) -> None:
    asked = {
        "instructions": "Be brief.", "max_output_tokens": 50, "max_tool_calls": 3, "metadata": {"a": "b"},
        "parallel_tool_calls": False, "prompt_cache_key": "k", "safety_identifier": "s", "temperature": 0.5,
        "top_p": 0.25, "user": "u", "presence_penalty": 1.0, "frequency_penalty": -1.0, "truncation": "disabled",
    }  # fmt: skip
    fields = {
        "reasoning": {"effort": "high", "summary": "auto"}, "tools": [WEATHER], "tool_choice": "none", "seed": 7,
        "top_k": 5, "service_tier": "auto", "model": "org/alias", "include": ["reasoning.encrypted_content"],
    }  # fmt: skip
    resource = whole(harmony, asked | fields)
    assert {name: resource[name] for name in asked} == asked
    assert resource["reasoning"] == {"effort": "high", "summary": "auto"}
    assert resource["tools"] == [WEATHER | {"strict": False}]
    assert (resource["tool_choice"], resource["model"], resource["store"]) == ("none", "test-model", True)
    assert resource["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    params = harmony.engine.submitted[0].params
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.5, 0.25, 5, 7)
    assert (params.presence_penalty, params.frequency_penalty) == (1.0, -1.0)
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[0].prompt_token_ids, False)
    assert "\nReasoning: high\n" in prompt
    assert "# Instructions\n\nBe brief." in prompt
    assert "functions" not in prompt


def test_logprobs(plain: Any) -> None:
    def script(submit: Any) -> Any:
        ids = plain.ids("🙂 hello é!")
        for at, token in enumerate([*ids, plain.eos]):
            logprobs = [TokenLogprob(token, -0.5 - at, 1, [(token, -0.5 - at), (1, -9.0)])]
            yield RequestOutput(
                request_id=submit.request_id,
                token_ids=[token],
                logprobs=logprobs,
                finish_reason="stop" if token == plain.eos else None,
            )

    plain.engine.script = script
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    part = whole(plain, fields)["output"][0]["content"][0]
    assert plain.engine.submitted[0].params.logprobs == 1
    expected = [-0.5 - at for at in range(len(plain.ids("🙂 hello é!")))]
    assert [entry["logprob"] for entry in part["logprobs"]] == expected
    assert all(len(entry["top_logprobs"]) == 1 for entry in part["logprobs"])
    assert bytes(byte for entry in part["logprobs"] for byte in entry["bytes"]) == "🙂 hello é!".encode()
    events = streamed(post(plain, fields | {"stream": True}))
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry["logprob"] for event in deltas for entry in event["logprobs"]] == expected
    assert rebuilt(events)[0]["content"][0]["logprobs"] == part["logprobs"]


def test_logprobs_of_a_preamble_and_an_answer(harmony: Any) -> None:
    text = "<|channel|>commentary<|message|>I é<|end|><|start|>assistant<|channel|>final<|message|>he 🙂"

    def script(submit: Any) -> Any:
        ids = [*harmony.ids(text), harmony.eos]
        logprobs = [TokenLogprob(token, -float(at), 1) for at, token in enumerate(ids)]
        yield RequestOutput(request_id=submit.request_id, token_ids=ids, logprobs=logprobs, finish_reason="stop")

    harmony.engine.script = script
    output = whole(harmony, {"include": ["message.output_text.logprobs"]})["output"]
    assert [item["phase"] for item in output] == ["commentary", "final_answer"]
    spelled = [bytes(b for each in item["content"][0]["logprobs"] for b in each["bytes"]).decode() for item in output]
    assert spelled == ["I é", "he 🙂"]


def test_a_format_without_messages(plain: Any) -> None:
    """Thought, text and calls of any other splitter: an item each, in their order, with their log-probabilities."""
    script = [
        Split(reasoning="Hm", owner="reasoning"), Split(content="I ", owner="content"), Split(),
        Split(content="look", owner="content"), Split(calls=(CallDelta(0, "", "call_a", "f"),), owner="call"),
        Split(calls=(CallDelta(0, "{}"), CallDelta(1, "", "call_b", "g"), CallDelta(1, "[]")), owner="call"),
        Split(content="done", owner="content"),
    ]  # fmt: skip

    class Scripted:
        silent_ids: frozenset[int] = frozenset()
        done = False

        def feed(self, token_ids: Any) -> Split:
            return script[token_ids[0]]

        def finish(self) -> Split:
            return Split(content="!", owner="content")

    notes = FormatNotes(Scripted())
    submit = Submit(request_id="r", prompt_token_ids=[1], params=SamplingParams(logprobs=0))
    choice = Choice(0, submit, notes)
    logprobs = [TokenLogprob(token, -float(token), 1) for token in range(len(script))]
    piece = choice.feed(
        RequestOutput(request_id="r", token_ids=list(range(len(script))), logprobs=logprobs, finish_reason="length")
    )
    resource: dict[str, Any] = {"status": "in_progress", "output": []}
    narrator = Narrator(resource, 1, lambda tokens: [{"logprob": token.logprob} for token in tokens], False)
    events = [*narrator.begin(), *narrator.tell(notes.take(), piece), *narrator.end(piece.finish_reason)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert bare(resource["output"]) == [
        ("reasoning", "Hm", "completed"),
        ("final_answer", "I look", "completed"),
        ("call", "f", "{}", "completed"),
        ("call", "g", "[]", "completed"),
        ("final_answer", "done!", "incomplete"),
    ]
    told = [item["content"][0]["logprobs"] for item in resource["output"] if item["type"] == "message"]
    assert [[entry["logprob"] for entry in each] for each in told] == [[-1.0, -2.0, -3.0], [-6.0]]


# Conversations


def test_function_tools_over_two_turns(harmony: Any) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        harmony.engine.script = harmony.say(CALL)
        first = (await client.post("/responses", json={"input": "hi", "tools": [WEATHER]})).json()
        call = first["output"][-1]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "<|end|>rain"}
        harmony.engine.script = harmony.say(ANSWER)
        asked = {"input": [result], "previous_response_id": first["id"], "tools": [WEATHER]}
        second = (await client.post("/responses", json=asked)).json()
        assert second["previous_response_id"] == first["id"]
        prompt = harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False)
        assert "type get_weather = (_: {\ncity?: string,\n}) => any;" in prompt
        assert prompt.endswith(
            "<|start|>user<|message|>hi<|end|><|start|>assistant<|channel|>analysis<|message|>Think é🙂<|end|>"
            "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
            "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>"
            '{"city": "Zürich"}<|call|>'
            "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|><|end|>rain<|end|>"
            "<|start|>assistant"
        )
        # The same, without the store: every item sent again, as a client has it.
        items = [{"role": "user", "content": "hi"}, *first["output"], result]
        await client.post("/responses", json={"input": items, "tools": [WEATHER], "store": False})
        assert harmony.engine.submitted[-1].prompt_token_ids == harmony.engine.submitted[-2].prompt_token_ids
        # And by reference.
        items = [{"role": "user", "content": "hi"}, *({"id": item["id"]} for item in first["output"]), result]
        answer = await client.post("/responses", json={"input": items, "tools": [WEATHER]})
        assert answer.status_code == 200, answer.text
        assert harmony.engine.submitted[-1].prompt_token_ids == harmony.engine.submitted[-2].prompt_token_ids
        # Once it has answered, its thoughts are gone, and so are instructions of earlier turns.
        asked = {"input": "more", "previous_response_id": second["id"], "instructions": "Be brief."}
        third = (await client.post("/responses", json=asked)).json()
        prompt = harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False)
        assert "Think" not in prompt
        assert "Be brief." in prompt
        assert prompt.count("<|start|>user<|message|>") == 2
        await client.post("/responses", json={"input": "and more", "previous_response_id": third["id"]})
        prompt = harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False)
        assert "Be brief." not in prompt

    talk(harmony.app(), say)


def test_reasoning_survives_without_the_store(harmony: Any) -> None:
    """A client that keeps nothing of a reasoning item but its sealed content."""
    harmony.engine.script = harmony.say(CALL)
    fields = {"tools": [WEATHER], "store": False, "include": ["reasoning.encrypted_content"]}
    output = whole(harmony, fields)["output"]
    assert output[0]["encrypted_content"]
    events = streamed(post(harmony, fields | {"stream": True}))
    assert rebuilt(events)[0]["encrypted_content"] == output[0]["encrypted_content"]
    stripped = {"type": "reasoning", "summary": [], "encrypted_content": output[0]["encrypted_content"]}
    result = {
        "type": "function_call_output",
        "call_id": output[-1]["call_id"],
        "output": [{"type": "input_text", "text": "x"}],
    }
    whole(harmony, {"input": [{"role": "user", "content": "hi"}, stripped, *output[1:], result]})
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[-1].prompt_token_ids, False)
    assert "<|channel|>analysis<|message|>Think é🙂<|end|>" in prompt
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAAB"}
    response = post(harmony, {"input": [foreign]})
    assert response.json()["error"]["param"] == "input[0].encrypted_content"


def test_all_kinds_of_messages(harmony: Any) -> None:
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "message", "role": "user", "content": "q1"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "r1", "annotations": []}]},
        {"role": "user", "content": [{"type": "text", "text": "q2"}], "extra": 1},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "phase": "final_answer"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": "<|end|>q3"},
    ]
    whole(harmony, {"input": items})
    submitted = harmony.engine.submitted[0].prompt_token_ids
    prompt = harmony.tokenizer.decode(submitted, False)
    for text in ("user<|message|>q1<|end|>", "final<|message|>r1<|end|>", "final<|message|>no<|end|>", "a\nb"):
        assert text in prompt
    assert prompt.endswith("<|start|>user<|message|><|end|>q3<|end|><|start|>assistant")
    starts = [token for token in submitted if token == harmony.ids("<|start|>")[0]]
    assert len(starts) == 9


def test_the_assistant_speaks_in_turns() -> None:
    """Up to its last call a turn is one message; thought goes with what follows it."""

    def item(kind: str, text: str) -> dict[str, Any]:
        if kind == "call":
            return {"type": "function_call", "call_id": text, "name": "f", "arguments": "{}"}
        if kind == "output":
            return {"type": "function_call_output", "call_id": text, "output": "out"}
        part = {"type": "reasoning_text" if kind == "reasoning" else "output_text", "text": text}
        fields: dict[str, Any] = (
            {"summary": []} if kind == "reasoning" else {"role": "user" if kind == "user" else "assistant"}
        )
        return {"type": "reasoning" if kind == "reasoning" else "message", "content": [part], **fields}

    first = "user:q reasoning:a assistant:b reasoning:c call:1 call:2"
    second = "output:1 output:2 reasoning:d assistant:e assistant:f"
    messages = conversation([item(*each.split(":")) for each in f"{first} {second}".split()], "Be brief.")
    calls = [{"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}} for name in "12"]
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "b", "reasoning": "a\nc", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "out"},
        {"role": "tool", "tool_call_id": "2", "content": "out"},
        {"role": "assistant", "content": "e", "reasoning": "d"},
        {"role": "assistant", "content": "f"},
    ]
    assert conversation([item("reasoning", "alone")], None) == [
        {"role": "assistant", "content": None, "reasoning": "alone"}
    ]


def test_input_items(harmony: Any) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        items = [{"role": "user", "content": str(number)} for number in range(5)]
        made = (await client.post("/responses", json={"input": items})).json()
        path = f"/responses/{made['id']}/input_items"
        page = (await client.get(path, params={"order": "asc", "limit": 2})).json()
        assert [item["content"] for item in page["data"]] == [[{"type": "input_text", "text": str(n)}] for n in (0, 1)]
        assert page["has_more"]
        rest = (await client.get(path, params={"order": "asc", "after": page["last_id"]})).json()
        assert [item["content"][0]["text"] for item in rest["data"]] == ["2", "3", "4"]
        assert not rest["has_more"]
        newest = (await client.get(path)).json()["data"]
        assert [item["content"][0]["text"] for item in newest] == ["4", "3", "2", "1", "0"]
        for query in ({"limit": "0"}, {"order": "up"}, {"after": "nothing"}):
            answer = await client.get(path, params=query)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))

    talk(harmony.app(), say)


def test_retrieve_and_delete(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER)

    async def say(client: httpx.AsyncClient) -> None:
        first = (await client.post("/responses", json={"input": "hi"})).json()
        second = (await client.post("/responses", json={"input": "so", "previous_response_id": first["id"]})).json()
        events = streamed(await client.post("/responses", json={"input": "hi", "stream": True}))
        for resource in (first, second, events[-1]["response"]):
            assert (await client.get(f"/responses/{resource['id']}")).json() == resource
        hidden = (await client.post("/responses", json={"input": "hi", "store": False})).json()
        assert hidden["store"] is False
        gone = await client.delete(f"/responses/{first['id']}")
        assert gone.json() == {"id": first["id"], "object": "response", "deleted": True}
        for identity in (first["id"], hidden["id"], "resp_nothing", "%00", "é"):
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
                answer = await client.request(method, f"/responses/{identity}{path}")
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
        # What goes back over it says so, and nothing of it is shown.
        for identity in (first["id"], second["id"], hidden["id"]):
            answer = await client.post("/responses", json={"input": "x", "previous_response_id": identity})
            error = answer.json()["error"]
            assert answer.status_code == 400
            assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
            assert error["message"].startswith("previous_response_id: ")

    talk(harmony.app(), say)


def test_a_key_sees_its_own_responses_only(harmony: Any) -> None:
    app = harmony.app(api_keys=KEYS)

    async def make(client: httpx.AsyncClient) -> Any:
        return (await client.post("/responses", json={"input": "secret", "background": True})).json()

    made = talk(app, make, KEYS[0])

    async def pry(client: httpx.AsyncClient) -> None:
        identity = made["id"]
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/input_items"),
            ("GET", "?stream=true"),
        ):
            assert (await client.request(method, f"/responses/{identity}{path}")).status_code == 404
        answer = await client.post("/responses", json={"input": "x", "previous_response_id": identity})
        assert answer.json()["error"]["code"] == "previous_response_not_found"

    talk(app, pry, KEYS[1])

    async def own(client: httpx.AsyncClient) -> tuple[int, str]:
        items = (await client.get(f"/responses/{made['id']}/input_items")).json()["data"]
        return (await client.get(f"/responses/{made['id']}")).status_code, items[0]["id"]

    status, item = talk(app, own, KEYS[0])
    assert status == 200

    async def refer(client: httpx.AsyncClient) -> None:
        answer = await client.post("/responses", json={"input": [{"type": "item_reference", "id": item}]})
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("input[0].id", "item_not_found")

    talk(app, refer, KEYS[1])


def test_without_a_store(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER)
    resource = whole(harmony, response_store="off")
    assert resource["store"] is False
    for fields, param in (
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ):
        response = post(harmony, fields, response_store="off")
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# What is refused


CALL_ITEM = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT_ITEM = {"type": "function_call_output", "call_id": "c", "output": "x"}
USER = {"role": "user", "content": "x"}
IMAGE = {"type": "input_image", "image_url": "http://x"}
UNKNOWN = {"type": "function", "name": "x"}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [UNKNOWN]}
VALUE, MISSING, UNSUPPORTED = "invalid_value", "missing_required_parameter", "unsupported_parameter"
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", MISSING),
    ({"input": []}, "input", MISSING),
    ({"input": 5}, "input", VALUE),
    ({"input": [5]}, "input[0]", VALUE),
    ({"input": [{}]}, "input[0].id", MISSING),
    ({"input": [USER, {"type": "web_search_call"}]}, "input[1]", VALUE),
    ({"input": [{"type": {"a": 1}}]}, "input[0]", VALUE),
    ({"input": [USER | {"type": "message", "role": "tool"}]}, "input[0].role", VALUE),
    ({"input": [{"role": "user"}]}, "input[0].content", MISSING),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].type", UNSUPPORTED),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]", MISSING),
    ({"input": [RESULT_ITEM]}, "input[0].call_id", VALUE),
    ({"input": [RESULT_ITEM, CALL_ITEM]}, "input[0].call_id", VALUE),
    ({"input": [CALL_ITEM, RESULT_ITEM | {"output": [IMAGE]}]}, "input[1].output[0].type", UNSUPPORTED),
    ({"input": [CALL_ITEM | {"name": "a b"}]}, "input[0].name", VALUE),
    ({"input": [CALL_ITEM | {"call_id": str(number)} for number in range(200)]}, "input", VALUE),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id", "item_not_found"),
    ({"input": "x" * 200_000}, "input", "context_length_exceeded"),
    ({"input": [USER] * 4097}, "input", VALUE),
    ({"max_output_tokens": 5000}, "input", "context_length_exceeded"),
    ({"max_output_tokens": 0}, "max_output_tokens", VALUE),
    ({"model": "other"}, "model", "model_not_found"),
    ({"foo": 1}, "foo", "unknown_parameter"),
    ({"x" * 100: 1}, "?", "unknown_parameter"),
    ({"messages": []}, "messages", UNSUPPORTED),
    ({"response_format": {"type": "text"}}, "response_format", UNSUPPORTED),
    ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
    ({"prompt": {"id": "p"}}, "prompt", UNSUPPORTED),
    ({"truncation": "auto"}, "truncation", VALUE),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", VALUE),
    ({"tools": [NOW | {"name": "a b"}]}, "tools[0].name", VALUE),
    ({"tools": [NOW] * 129}, "tools", VALUE),
    ({"tool_choice": "auto"}, "tool_choice", VALUE),
    ({"tools": [NOW], "tool_choice": UNKNOWN}, "tool_choice.name", VALUE),
    ({"tools": [NOW], "tool_choice": ALLOWED}, "tool_choice.tools[0].name", VALUE),
    ({"reasoning": {"effort": "minimal"}}, "reasoning.effort", VALUE),
    ({"text": {"verbosity": "low"}}, "text.verbosity", VALUE),
    ({"text": {"format": {"type": "yaml"}}}, "text.format", VALUE),
    ({"include": ["everything"]}, "include[0]", VALUE),
    ({"top_logprobs": 2}, "top_logprobs", VALUE),
    ({"stream_options": {}}, "stream_options", VALUE),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", VALUE),
    ({"metadata": {"a": 1}}, "metadata.a", VALUE),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata", VALUE),
    ({"background": True, "store": False}, "store", VALUE),
    ({"previous_response_id": ""}, "previous_response_id", VALUE),
    ({"temperature": "1"}, "temperature", VALUE),
]


@pytest.mark.parametrize(("body", "param", "code"), WRONG)
def test_what_is_wrong_is_named(harmony: Any, body: dict[str, Any], param: str, code: str) -> None:
    response = post(harmony, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (404 if param == "model" else 400, param, code)
    assert error["message"].startswith((f"{param}: ", "This "))
    assert "messages" not in error["message"] or param == "messages"
    assert harmony.engine.submitted == []


def test_allowed_tools(harmony: Any) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}
    resource = whole(harmony, {"tools": [WEATHER, NOW], "tool_choice": choice})
    prompt = harmony.tokenizer.decode(harmony.engine.submitted[0].prompt_token_ids, False)
    assert "type now" in prompt
    assert "get_weather" not in prompt
    assert resource["tool_choice"] == choice
    assert len(resource["tools"]) == 2


def test_numbers_beyond_64_bits_in_a_schema(harmony: Any) -> None:
    parameters = '{"type": "object", "properties": {"n": {"maximum": 1' + "0" * 40 + ', "minimum": -1e999}}}'

    async def say(client: httpx.AsyncClient, raw: str) -> httpx.Response:
        return await client.post("/responses", content=raw, headers={"content-type": "application/json"})

    for stream in ("true", "false"):
        tool = f'{{"type": "function", "name": "f", "parameters": {parameters}}}'
        raw = f'{{"input": "hi", "stream": {stream}, "tools": [{tool}]}}'
        response = talk(harmony.app(), functools.partial(say, raw=raw))
        assert response.status_code == 200
        assert str(10**40) in response.text
        assert "Infinity" not in response.text


def test_an_engine_that_fails(harmony: Any) -> None:
    def script(submit: Any) -> Any:
        yield from list(harmony.say("<|channel|>final<|message|>He", finish="length")(submit))[:-1]
        yield harmony.EngineDead("x")

    harmony.engine.script = script
    assert post(harmony, {}).status_code == 503

    async def say(client: httpx.AsyncClient) -> None:
        events = streamed(await client.post("/responses", json={"input": "hi", "stream": True}))
        assert events[-1]["type"] == "response.failed"
        resource = events[-1]["response"]
        assert (resource["status"], resource["error"]["code"]) == ("failed", "server_error")
        assert [item["status"] for item in resource["output"]] == ["incomplete"]
        assert (await client.get(f"/responses/{resource['id']}")).json() == resource

    talk(harmony.app(), say)
    harmony.engine.refuse = harmony.EngineOverloaded("full", 3)
    for fields in ({}, {"stream": True}, {"background": True}):
        response = post(harmony, fields)
        assert (response.status_code, response.headers["retry-after"]) == (503, "3")


def test_a_generation_that_ends_before_anyone_looks(harmony: Any) -> None:
    """Also what a client gets who takes nothing of a stream until the engine is done."""
    harmony.engine.script = harmony.say(ANSWER, size=3)

    async def go() -> None:
        service = Service(
            client=harmony.engine, tokenizer=harmony.tokenizer, template=None, chat=harmony.chat,
            metrics=harmony.metrics, vocab_size=harmony.tokenizer.vocab_size, eos_token_ids=(harmony.eos,),
        )  # fmt: skip
        for slow in (False, True):
            submit = Submit(request_id="r", prompt_token_ids=[1], params=SamplingParams(), eos_token_ids=(harmony.eos,))
            choice = Choice(0, submit, HarmonySplitter(harmony.tokenizer))
            generation = Generation(service, [choice])
            await generation.start()
            await asyncio.sleep(0 if slow else 0.05)
            text, finish = "", None
            async for news in generation.pieces():
                for _, piece in news:
                    text, finish = text + piece.text, piece.finish_reason
                await asyncio.sleep(0.05)
            await generation.close()
            assert (text, finish) == ("Hello wörld🙂", "stop")

    anyio.run(go)


def test_an_engine_that_refuses_a_schema(harmony: Any) -> None:
    refusal = "it has too many states"
    harmony.engine.script = lambda submit: [
        RequestOutput(request_id=submit.request_id, finish_reason="error", error=refusal, refused=True)
    ]
    fields: dict[str, Any] = {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}}
    response = post(harmony, fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "text.format.schema")
    resource = streamed(post(harmony, fields | {"stream": True}))[-1]["response"]
    error = {"code": "invalid_prompt", "message": f"text.format.schema: {refusal}"}
    assert (resource["status"], resource["error"]) == ("failed", error)


def test_a_store_that_fails(harmony: Any, tmp_path: Path) -> None:
    """The answer is given all the same, and says that it is not kept."""
    path = tmp_path / "responses.sqlite"
    app = harmony.app(response_store=str(path))
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE items")

    async def say(client: httpx.AsyncClient) -> None:
        resource = (await client.post("/responses", json={"input": "hi"})).json()
        assert (resource["status"], resource["store"]) == ("completed", False)
        resource = streamed(await client.post("/responses", json={"input": "hi", "stream": True}))[-1]["response"]
        assert (resource["status"], resource["store"]) == ("completed", False)
        harmony.engine.script = harmony.say("word " * 500, pause=0.01)
        answer = await client.post("/responses", json={"input": "hi", "background": True})
        assert answer.status_code == 500
        assert harmony.engine.aborted == [harmony.engine.submitted[-1].request_id]

    talk(app, say)


def test_a_run_that_was_cancelled_elsewhere_ends_here(harmony: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(runs, "LEASE", 0.1)
    monkeypatch.setattr(runs, "MAX_RUNNING", 2)
    harmony.engine.script = harmony.say("<|channel|>final<|message|>" + "word " * 500, pause=0.01)
    path = str(tmp_path / "responses.sqlite")

    async def say(client: httpx.AsyncClient) -> None:
        made = [(await client.post("/responses", json={"input": "x", "background": True})).json() for _ in range(2)]
        answer = await client.post("/responses", json={"input": "x", "background": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_background_responses")
        other = ResponseStore(StoreConfig(path))
        assert other.cancel("", made[0]["id"])["status"] == "cancelled"
        other.delete("", made[1]["id"])
        for _ in range(200):
            if len(harmony.engine.aborted) == 2:
                break
            await asyncio.sleep(0.01)
        assert set(harmony.engine.aborted) == {submit.request_id for submit in harmony.engine.submitted}
        assert (await client.get(f"/responses/{made[0]['id']}")).json()["status"] == "cancelled"
        assert (await client.get(f"/responses/{made[1]['id']}")).status_code == 404

    talk(harmony.app(response_store=path), say)


def test_events_that_are_too_many_are_forgotten(monkeypatch: Any) -> None:
    monkeypatch.setattr(runs, "MAX_NOTED", 100)
    noted = runs.Noted()

    async def read(first: int) -> list[bytes]:
        return [event async for events in noted.read(first) for event in events]

    async def go() -> None:
        noted.add([b"%d" % number * 8 for number in range(10)])
        reader = asyncio.create_task(read(3))
        await asyncio.sleep(0.01)
        noted.add([b"x" * 60, b"y" * 20])
        noted.end()
        assert (await reader)[-2:] == [b"x" * 60, b"y" * 20]
        assert not noted.has(7)
        assert noted.has(8)
        assert await read(7) == []
        assert await read(8) == [b"8" * 8, b"9" * 8, b"x" * 60, b"y" * 20]
        assert await read(11) == [b"y" * 20]
        assert await read(12) == []

    anyio.run(go)


def test_any_output_is_the_same_whole_and_streamed(harmony: Any) -> None:
    pieces = [
        *sorted(harmony.tokenizer.special_texts), "analysis", "commentary", "final", " to=functions.now", " to=x",
        "assistant", " json", "{}", "a b c", "é", "🙂", "\n", "functions.get_weather", " to=now", "user",
    ]  # fmt: skip
    draw = random.Random(7)

    async def say(client: httpx.AsyncClient) -> None:
        for _ in range(60):
            text = "".join(draw.choices(pieces, k=draw.randrange(1, 14)))
            finish, tools = draw.choice(["stop", "length"]), draw.choice([[], [WEATHER, NOW]])
            harmony.engine.script = harmony.say(text, finish=finish, size=10_000)
            at_once = (await client.post("/responses", json={"input": "hi", "tools": tools})).json()
            harmony.engine.script = harmony.say(text, finish=finish, size=draw.randrange(1, 5))
            events = streamed(await client.post("/responses", json={"input": "hi", "tools": tools, "stream": True}))
            assert bare(rebuilt(events)) == bare(at_once["output"]) == bare(events[-1]["response"]["output"]), text

    talk(harmony.app(), say)


# In the background


async def over(client: httpx.AsyncClient, identity: str) -> Any:
    for _ in range(500):
        resource = (await client.get(f"/responses/{identity}")).json()
        if resource["status"] not in ("queued", "in_progress"):
            return resource
        await asyncio.sleep(0.01)
    raise AssertionError("it never ended")


def test_in_the_background(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER, pause=0.002)

    async def say(client: httpx.AsyncClient) -> None:
        made = (await client.post("/responses", json={"input": "hi", "background": True})).json()
        Response.model_validate(made)
        assert (made["status"], made["background"], made["output"]) == ("queued", True, [])
        await asyncio.sleep(0.01)
        assert (await client.get(f"/responses/{made['id']}")).json()["status"] == "in_progress"
        answer = await client.post("/responses", json={"input": "x", "previous_response_id": made["id"]})
        assert answer.json()["error"]["code"] == "response_not_ready"
        resource = await over(client, made["id"])
        assert resource["status"] == "completed"
        assert bare(resource["output"])[1] == ("final_answer", "Hello wörld🙂", "completed")
        cancelled = await client.post(f"/responses/{made['id']}/cancel")
        assert cancelled.json() == resource
        answer = await client.get(f"/responses/{made['id']}", params={"stream": "true"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")
        more = (await client.post("/responses", json={"input": "x", "previous_response_id": made["id"]})).json()
        assert more["status"] == "completed"
        answer = await client.post(f"/responses/{more['id']}/cancel")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_id")

    talk(harmony.app(), say)


def test_cancel(harmony: Any) -> None:
    harmony.engine.script = harmony.say("<|channel|>final<|message|>" + "word " * 500, pause=0.005)

    async def say(client: httpx.AsyncClient) -> None:
        made = (await client.post("/responses", json={"input": "hi", "background": True})).json()
        await asyncio.sleep(0.1)
        first = (await client.post(f"/responses/{made['id']}/cancel")).json()
        Response.model_validate(first)
        assert first["status"] == "cancelled"
        assert first["output"][0]["status"] == "incomplete"
        assert first["output"][0]["content"][0]["text"].startswith("word")
        assert harmony.engine.aborted == [harmony.engine.submitted[0].request_id]
        assert (await client.post(f"/responses/{made['id']}/cancel")).json() == first
        assert (await client.get(f"/responses/{made['id']}")).json() == first
        # Deleting ends it as well.
        made = (await client.post("/responses", json={"input": "hi", "background": True})).json()
        assert (await client.delete(f"/responses/{made['id']}")).status_code == 200
        assert len(harmony.engine.aborted) == 2
        assert (await client.get(f"/responses/{made['id']}")).status_code == 404

    talk(harmony.app(), say)


def test_a_background_stream_can_be_taken_up_again(harmony: Any) -> None:
    harmony.engine.script = harmony.say(ANSWER, pause=0.001)

    async def say(client: httpx.AsyncClient) -> None:
        asked = {"input": "hi", "background": True, "stream": True}
        events = streamed(await client.post("/responses", json=asked))
        kinds = [event["type"] for event in events[:3]]
        assert kinds == ["response.created", "response.queued", "response.in_progress"]
        assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
        assert bare(rebuilt(events)) == bare(events[-1]["response"]["output"])
        path = f"/responses/{events[0]['response']['id']}"
        assert (await client.get(path)).json() == events[-1]["response"]
        for after in (0, 5, len(events) - 1, len(events) + 5):
            again = await client.get(path, params={"stream": "true", "starting_after": after})
            assert streamed(again, after + 1) == events[after + 1 :]
        assert streamed(await client.get(path, params={"stream": "true"})) == events
        for query in ({"stream": "maybe"}, {"stream": "true", "starting_after": "-1"}):
            answer = await client.get(path, params=query)
            assert answer.status_code == 400

    talk(harmony.app(), say)
