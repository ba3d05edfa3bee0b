"""/v1/responses over several turns: conversations, and who may read, go on from and delete what is stored."""

from __future__ import annotations

from typing import Any

import httpx

from yardmaster.server.responses.items import conversation
from yardmaster.tests.server.http.responses_talk import (
    ANSWER,
    CALL,
    WEATHER,
    post,
    rebuilt,
    streamed,
    talk,
    whole,
)

KEYS = ("sk-first-key-000000", "sk-second-key-00000")


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
