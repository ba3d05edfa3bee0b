"""/v1/responses in the background: polled, cancelled, taken up again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
from openai.types.responses import Response

from yardmaster.engine.messages import RequestOutput, Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.http.choice import Choice
from yardmaster.server.http.generation import Generation
from yardmaster.server.http.service import Service
from yardmaster.server.http.splitter import HarmonySplitter
from yardmaster.server.responses import runs
from yardmaster.server.responses.store import ResponseStore, StoreConfig
from yardmaster.tests.server.fair.house import until
from yardmaster.tests.server.http.responses_talk import (
    ANSWER,
    bare,
    rebuilt,
    streamed,
    talk,
)


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


async def over(client: httpx.AsyncClient, identity: str) -> Any:
    for _ in range(500):
        resource = (await client.get(f"/responses/{identity}")).json()
        if resource["status"] not in ("queued", "in_progress"):
            return resource
        await asyncio.sleep(0.01)
    raise AssertionError("it never ended")


def test_in_the_background(harmony: Any) -> None:
    end = asyncio.Event()

    def script(submit: Submit) -> Iterator[Any]:
        *most, last = harmony.say(ANSWER)(submit)
        yield from most
        while not end.is_set():
            yield 0.002
        yield last

    harmony.engine.script = script

    async def say(client: httpx.AsyncClient) -> None:
        made = (await client.post("/responses", json={"input": "hi", "background": True})).json()
        Response.model_validate(made)
        assert (made["status"], made["background"], made["output"]) == ("queued", True, [])
        async with asyncio.timeout(10):
            while (status := (await client.get(f"/responses/{made['id']}")).json()["status"]) == "queued":
                await asyncio.sleep(0.001)
        assert status == "in_progress"
        answer = await client.post("/responses", json={"input": "x", "previous_response_id": made["id"]})
        assert answer.json()["error"]["code"] == "response_not_ready"
        end.set()
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
    taken: list[RequestOutput] = []

    def script(submit: Submit) -> Iterator[Any]:
        for act in harmony.say("<|channel|>final<|message|>" + "word " * 500, pause=0.005)(submit):
            yield act
            if isinstance(act, RequestOutput):
                taken.append(act)

    harmony.engine.script = script

    async def say(client: httpx.AsyncClient) -> None:
        made = (await client.post("/responses", json={"input": "hi", "background": True})).json()
        await until(lambda: len(taken) >= 12)  # the first word is there after ten
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
