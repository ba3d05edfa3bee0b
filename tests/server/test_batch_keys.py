"""A batch's lines count for the key that made it, within half of its limits, and wait behind everybody's requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from yardmaster.engine.messages import RequestOutput
from yardmaster.server.batch.background import behind
from yardmaster.server.batch.caller import Caller
from yardmaster.server.batch.lines import Line, LineError, parse_line
from yardmaster.server.fair.bucket import Bucket
from yardmaster.server.fair.client import FairClient
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.fair.refusals import LimitReached
from yardmaster.server.fair.tenant import CALLER
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.fair.house import held, until

TEXT = "/v1/completions"
OWNER = "name:alice"


class Yard:
    """Alice's key with the limits of a test, and batches' caller over a fair queue. Time stands still."""

    def __init__(self, stage: Any, folder: Path, limits: str = "weight: 1", max_running: int = 8) -> None:
        self.now = 0.0
        self.file = folder / "keys.yaml"
        self.write(f"- {{name: alice, key: alices-key-1, {limits}}}")
        self.keys = Keyring(self.file, clock=lambda: self.now)
        self.stage = stage
        bounds = {"max_waiting": 100, "max_starting": 1000, "step_tokens": 100}
        client = FairClient(stage.engine, self.keys, max_running=max_running, **bounds)
        self.service = replace(stage.service(), client=client)
        config = HttpConfig(("test-model",))
        self.caller = Caller(behind(self.service, "test-model", 64), config, self.keys)

    def write(self, *keys: str) -> None:
        self.file.write_text("keys:\n" + "".join(f"  {key}\n" for key in keys))

    @property
    def alice(self) -> Any:
        return self.keys.tenants["alice"]

    def line(self, number: int = 1, url: str = TEXT, **body: Any) -> Line:
        asked = {"prompt": "abcdefghij", "max_tokens": 10} if url == TEXT else {}
        return Line(number, str(number), url, json.dumps(asked | body).encode())

    def start(self, *lines: Line, owner: str = OWNER) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.answer(line, owner)) for line in lines]

    async def answer(self, line: Line, owner: str) -> Any:
        while (result := await self.caller.answer(line, owner)) is None:
            await asyncio.sleep(0.01)
        return result


def says(stage: Any, tokens: int, pause: float = 0.0) -> Any:
    def script(submit: Any) -> Iterator[Any]:
        if pause:
            yield pause
        yield RequestOutput(request_id=submit.request_id, token_ids=[65] * tokens, finish_reason="length")

    return script


def body_of(result: Any) -> Any:
    return json.loads(result.text)["response"]


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0.002)


def test_lines_count_for_their_key(plain: Any, tmp_path: Path) -> None:
    async def go() -> None:
        plain.engine.script = says(plain, 4)
        yard = Yard(plain, tmp_path, "requests_per_minute: 100, tokens_per_minute: 1000, priority: 3")
        for result in await asyncio.gather(*yard.start(yard.line(1), yard.line(2), yard.line(3, n=2))):
            assert result.ok
        alice = yard.alice
        assert (alice.requests, alice.prompt_tokens, alice.generation_tokens) == (3, 40, 16)
        assert (alice.remaining_requests, alice.remaining_tokens) == (97, 1000 - 56)
        assert (alice.concurrent, alice.running, alice.waiting, dict(alice.rejected)) == (0, 0, 0, {})
        assert yard.keys.internal.generation_tokens == 0
        assert all(submit.priority > 1 << 30 for submit in plain.engine.submitted)
        (mine,) = await asyncio.gather(*yard.start(yard.line(4), owner=""))  # from before there were names
        assert mine.ok
        assert (alice.requests, yard.keys.internal.prompt_tokens) == (3, 10)
        assert CALLER.get() is None

    asyncio.run(go())


def test_half_of_the_tokens_stay_for_others(plain: Any, tmp_path: Path) -> None:
    async def go() -> None:
        plain.engine.script = says(plain, 10)
        yard = Yard(plain, tmp_path, "tokens_per_minute: 100")
        running = yard.start(*(yard.line(n) for n in range(4)))
        await settled()
        assert sum(task.done() for task in running) == 2  # 20 tokens each
        assert yard.alice.remaining_tokens == 60
        assert dict(yard.alice.rejected) == {}
        yard.now += 6.5  # ten tokens more
        await settled()
        assert sum(task.done() for task in running) == 3
        yard.now += 60
        assert all(result.ok for result in await asyncio.gather(*running))
        # What half would never cover, runs when all is there, whatever its parts.
        yard.now += 60
        (several,) = await asyncio.gather(*yard.start(yard.line(5, n=4)))
        assert several.ok
        yard.now += 60
        (never,) = await asyncio.gather(*yard.start(yard.line(6, n=6)))
        assert not never.ok
        assert body_of(never)["status_code"] == 429
        assert "can never run" in body_of(never)["body"]["error"]["message"]

    asyncio.run(go())


@pytest.mark.parametrize(("limits", "at_once"), [("max_concurrent: 6", 3), ("max_concurrent: 1", 1)])
def test_half_of_the_places_stay_for_others(plain: Any, tmp_path: Path, limits: str, at_once: int) -> None:
    async def go() -> None:
        answer = asyncio.Event()
        plain.engine.script = held(says(plain, 1), answer)
        yard = Yard(plain, tmp_path, limits)
        running = yard.start(*(yard.line(n) for n in range(4)))
        await until(lambda: len(plain.engine.submitted) >= at_once)
        await settled()
        assert (yard.alice.concurrent, len(plain.engine.submitted)) == (at_once, at_once)
        answer.set()
        assert all(result.ok for result in await asyncio.gather(*running))
        assert yard.alice.concurrent == 0

    asyncio.run(go())


def test_half_of_the_requests_stay_for_others(plain: Any, tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(plain, tmp_path, "requests_per_minute: 10")
        running = yard.start(*(yard.line(n) for n in range(7)))
        await settled()
        assert (sum(task.done() for task in running), yard.alice.remaining_requests) == (5, 5)
        yard.alice.enter(None).drop()
        yard.now += 60
        await asyncio.gather(*running)

    asyncio.run(go())


def test_a_lines_turn_is_the_servers_own(plain: Any, tmp_path: Path) -> None:
    """However much weight its key has."""

    async def go() -> None:
        plain.engine.script = says(plain, 1, pause=0.02)
        yard = Yard(plain, tmp_path, "weight: 1000", max_running=1)
        yard.write("- {name: alice, key: alices-key-1, weight: 1000}", "- {name: bob, key: bobs-key-1, weight: 0.01}")
        await yard.keys.reload()
        lines = yard.start(*(yard.line(n, prompt=f"alice {n}") for n in range(4)))
        async with asyncio.timeout(10):
            while not plain.engine.submitted:
                await asyncio.sleep(0)
        token = CALLER.set(yard.keys.tenants["bob"].enter(None))
        try:
            from yardmaster.engine.messages import Submit
            from yardmaster.engine.sampling_params import SamplingParams

            for n in range(5):
                params = SamplingParams(max_tokens=1, seed=0)
                submit = Submit(request_id=f"bob-{n}", prompt_token_ids=[1], params=params)
                outputs = await yard.service.client.submit(submit)
                asyncio.create_task(_read(outputs))  # noqa: RUF006
        finally:
            CALLER.reset(token)
        await asyncio.gather(*lines)
        order = ["bob" if submit.request_id.startswith("bob") else "alice" for submit in plain.engine.submitted]
        assert order == ["alice", *["bob"] * 5, *["alice"] * 3]

    asyncio.run(go())


async def _read(outputs: Any) -> None:
    async for _ in outputs:
        pass


def test_a_key_that_has_gone_runs_nothing(plain: Any, tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(plain, tmp_path)
        yard.write("- {name: bob, key: bobs-key-1}")
        await yard.keys.reload()
        (result,) = await asyncio.gather(*yard.start(yard.line()))
        assert (result.ok, body_of(result)["status_code"]) == (False, 401)
        assert body_of(result)["body"]["error"]["code"] == "invalid_api_key"
        assert plain.engine.submitted == []
        yard.write("- {name: alice, key: alices-key-1}")
        await yard.keys.reload()
        yard.keys.draining = True
        running = yard.start(yard.line())
        await settled()
        assert not running[0].done()
        yard.keys.draining = False
        assert (await running[0]).ok
        tenants, yard.keys.tenants = yard.keys.tenants, {}  # as a front end of several begins
        running = yard.start(yard.line())
        await settled()
        assert not running[0].done()
        yard.keys.tenants = tenants
        assert (await running[0]).ok

    asyncio.run(go())


def test_responses_in_a_batch(harmony: Any, tmp_path: Path) -> None:
    async def go() -> None:
        think = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
        harmony.engine.script = harmony.say(f"{think}<|channel|>final<|message|>hello")
        yard = Yard(harmony, tmp_path, "tokens_per_minute: 100000")
        (result,) = await asyncio.gather(*yard.start(yard.line(url="/v1/responses", input="hi", max_output_tokens=50)))
        body = body_of(result)["body"]
        assert (body["object"], body["status"], body["store"]) == ("response", "completed", False)
        assert body["output"][-1]["content"][0]["text"] == "hello"
        usage = body["usage"]
        assert result.tokens.input == usage["input_tokens"] > 0
        assert result.tokens.output == usage["output_tokens"] == yard.alice.generation_tokens > 0
        assert result.tokens.reasoning == usage["output_tokens_details"]["reasoning_tokens"] > 0
        (wrong,) = await asyncio.gather(*yard.start(yard.line(url="/v1/responses", input=[], tools=[{"type": "x"}])))
        assert (wrong.ok, body_of(wrong)["status_code"]) == (False, 400)

    asyncio.run(go())


def test_what_a_batch_of_responses_does_not_take() -> None:
    def parsed(url: str, **body: Any) -> Line:
        return parse_line(7, json.dumps({"custom_id": "a", "method": "POST", "url": url, "body": body}).encode())

    for name, value in (("store", True), ("background", True), ("previous_response_id", "resp_1"), ("stream", True)):
        with pytest.raises(LineError, match="leave it out") as caught:
            parsed("/v1/responses", input="hi", **{name: value})
        assert (caught.value.param, caught.value.line) == (f"body.{name}", 7)
        assert parsed("/v1/responses", input="hi", **{name: None})
    assert parsed("/v1/responses", input="hi", store=False, stream=False).url == "/v1/responses"
    assert parsed("/v1/chat/completions", store=True)


def test_what_a_bucket_spares() -> None:
    bucket = Bucket(100, lambda: 0.0)
    assert bucket.spares(50)
    assert bucket.spares(51)  # it is full
    bucket.take(1)
    assert bucket.spares(49)
    assert not bucket.spares(50)
    assert bucket.spares(70, taken=1)
    bucket.take(39)
    assert bucket.spares(10)
    assert not bucket.spares(11)
    assert not bucket.spares(11, taken=38)
    assert bucket.spares(30, taken=40)


def test_the_keys_own_requests_go_first(plain: Any, tmp_path: Path) -> None:
    yard = Yard(plain, tmp_path, "requests_per_minute: 2, max_concurrent: 2")
    behind_all = yard.alice.enter_behind()
    with pytest.raises(LimitReached):
        yard.alice.enter_behind()
    yard.alice.enter(None).drop()
    behind_all.drop()
    assert yard.alice.remaining_requests == 0
