"""Keys of a file over HTTP: who gets in, limits and their headers, and who waits behind whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from yardmaster.engine.messages import RequestOutput
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.fair.house import FILE, PROMPT, TEXT, House, by, error, held, limits, until

CHAT = "/v1/chat/completions"


def test_only_keys_of_the_file_get_in(house: House) -> None:
    async def go(http: httpx.AsyncClient) -> None:
        for headers in (
            {},
            {"authorization": "Bearer nobody-at-all"},
            {"authorization": "Bearer key-of-alice2"},
            {"authorization": "Bearer key-of-alic"},
            {"authorization": "Basic key-of-alice"},
            {"authorization": "Bearer "},
            {"authorization": b"Bearer \xff"},
        ):
            for method, path in (("POST", TEXT), ("GET", "/v1/models"), ("GET", "/admin/keys"), ("GET", "/nope")):
                response = await http.request(method, path, json=PROMPT, headers=headers)
                error(response, 401, "invalid_api_key")
                assert not limits(response)
        for name in ("alice", "bob", "ops"):
            assert (await http.get("/v1/models", headers=by(name))).status_code == 200
            assert (await http.post(TEXT, json=PROMPT, headers=by(name))).status_code == 200
        for path in ("/health", "/ready", "/metrics", "/version"):
            assert (await http.get(path)).status_code == 200
        two = [("authorization", "Bearer key-of-alice"), ("authorization", "Bearer key-of-bob-1")]
        error(await http.get("/v1/models", headers=two), 401, "invalid_api_key")

    house.run(go)


def test_limits_and_their_headers(house: House, plain: Any) -> None:
    plain.engine.script = plain.say("four", finish="length")
    used = 3 + len(plain.ids("four"))

    async def go(http: httpx.AsyncClient) -> None:
        response = await http.post(TEXT, json=PROMPT, headers=by("alice"))
        assert response.json()["usage"]["total_tokens"] == used
        assert limits(response) == {
            "limit-requests": "3",
            "remaining-requests": "2",
            "reset-requests": "20s",
            "limit-tokens": "100",
            "remaining-tokens": str(100 - used),
            "reset-tokens": f"{used * 0.6:g}s",
        }
        response = await http.post(TEXT, json=PROMPT | {"stream": True}, headers=by("alice"))
        assert limits(response)["remaining-requests"] == "1"
        assert limits(response)["remaining-tokens"] == str(100 - used - 10)  # as the answer begins
        response = await http.post(TEXT, json=PROMPT | {"max_tokens": 95}, headers=by("alice"))
        told = error(response, 429, "rate_limit_exceeded")
        assert told["type"] == "tokens"
        assert (
            f"'alice' may use 100 tokens a minute; {100 - 2 * used} are left and this request asks for 98"
            in told["message"]
        )
        seconds = (98 - (100 - 2 * used)) * 0.6
        assert float(response.headers["retry-after-ms"]) == pytest.approx(1000 * seconds, abs=1)
        assert int(response.headers["retry-after"]) == -(-seconds // 1)
        assert limits(response)["remaining-requests"] == "0"
        response = await http.post(TEXT, json=PROMPT, headers=by("alice"))
        told = error(response, 429, "rate_limit_exceeded")
        assert told["type"] == "requests"
        assert "3 requests a minute" in told["message"]
        assert response.headers["retry-after"] == "20"
        assert (await http.get("/v1/models", headers=by("alice"))).status_code == 200
        house.now += 20
        response = await http.post(TEXT, json=PROMPT | {"temperature": -1}, headers=by("alice"))
        error(response, 400, "invalid_value")  # counts, too
        assert limits(response)["remaining-requests"] == "0"
        response = await http.post(TEXT, json=PROMPT, headers=by("bob"))
        assert response.status_code == 200
        assert not limits(response)
        house.now += 60
        response = await http.post(TEXT, json=PROMPT | {"n": 5, "max_tokens": 18}, headers=by("alice"))
        told = error(response, 429, "rate_limit_exceeded")
        assert "it can never run" in told["message"]
        assert response.headers["x-should-retry"] == "false"
        assert limits(response)["remaining-tokens"] == "100"  # its first choices are given back

    house.run(go)


def test_as_many_at_once_as_allowed(house: House, plain: Any) -> None:
    plain.engine.script = plain.say("slow", pause=0.02)

    async def go(http: httpx.AsyncClient) -> None:
        posts = [http.post(TEXT, json=PROMPT, headers=by("alice")) for _ in range(3)]
        answers = await asyncio.gather(*posts)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert error(refused, 429, "rate_limit_exceeded")["type"] == "requests"
        assert "2 requests at once" in refused.text
        assert limits(refused)["remaining-requests"] == "1"  # what is refused does not count
        assert (await http.post(TEXT, json=PROMPT, headers=by("alice"))).status_code == 200

    house.run(go)


def test_a_key_that_floods_does_not_keep_others_waiting(plain: Any, tmp_path: Path) -> None:
    house = House(plain, tmp_path, FILE, max_running=1, max_waiting=64)
    done: list[str] = []

    def script(submit: Any) -> Any:
        yield 0.001
        yield RequestOutput(request_id=submit.request_id, token_ids=[5] * 7, finish_reason="length")

    plain.engine.script = script

    async def go(http: httpx.AsyncClient) -> None:
        async def one(name: str) -> None:
            assert (await http.post(TEXT, json=PROMPT, headers=by(name))).status_code == 200
            done.append(name)

        flood = [asyncio.create_task(one("bob")) for _ in range(40)]
        await asyncio.sleep(0.01)
        await asyncio.gather(one("ops"), one("ops"))
        assert done.count("bob") < 25
        await asyncio.gather(*flood)

    house.run(go)
    assert len(done) == 42


def test_a_full_queue_is_503_and_a_passed_deadline_504(plain: Any, tmp_path: Path) -> None:
    house = House(plain, tmp_path, FILE, max_running=1, max_waiting=2)
    answer = asyncio.Event()
    plain.engine.script = held(plain.say("slow answer"), answer)

    async def go(http: httpx.AsyncClient) -> None:
        first = asyncio.create_task(http.post(TEXT, json=PROMPT, headers=by("bob")))
        await until(lambda: plain.engine.submitted)
        late = {"x-request-timeout": "1"}
        waits = [asyncio.create_task(http.post(TEXT, json=PROMPT, headers=by(name, **late))) for name in ("bob", "ops")]
        await until(lambda: [house.keys.tenants[name].waiting for name in ("bob", "ops")] == [1, 1])
        response = await http.post(TEXT, json=PROMPT, headers=by("alice"))
        error(response, 503, "engine_overloaded")
        assert response.headers["retry-after"]
        for response in await asyncio.gather(*waits):
            assert "was not run" in error(response, 504, "deadline_exceeded")["message"]
            assert response.headers["x-should-retry"] == "false"
        late = {"x-request-timeout": "0.03"}
        response = await http.post(TEXT, json=PROMPT | {"stream": True}, headers=by("bob", **late))
        events = [line[6:] for line in response.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["error"]["code"] == "deadline_exceeded"
        answer.set()
        assert (await first).status_code == 200
        assert len(plain.engine.submitted) == 1
        for value in ("0", "-1", "nan", "inf", "soon", "1e9", "1" * 40):
            response = await http.post(TEXT, json=PROMPT, headers=by("bob") | {"x-request-timeout": value})
            assert error(response, 400, "invalid_value")["param"] == "x-request-timeout"
        response = await http.post(TEXT, json=PROMPT, headers=by("bob") | {"x-request-timeout": "20"})
        assert response.status_code == 200

    house.run(go)


def test_priority_of_a_body(house: House) -> None:
    async def go(http: httpx.AsyncClient) -> None:
        response = await http.post(TEXT, json=PROMPT | {"priority": -1}, headers=by("bob"))
        assert error(response, 400, "invalid_value")["param"] == "priority"
        for priority in (None, 0, 3):
            response = await http.post(TEXT, json=PROMPT | {"priority": priority}, headers=by("bob"))
            assert response.status_code == 200

    house.run(go)


def test_who_leaves_while_he_waits_leaves_nothing_behind(plain: Any, tmp_path: Path) -> None:
    house = House(plain, tmp_path, FILE, max_running=1)
    answer = asyncio.Event()
    plain.engine.script = held(plain.say("slow answer"), answer)

    async def go(http: httpx.AsyncClient) -> None:
        first = asyncio.create_task(http.post(TEXT, json=PROMPT, headers=by("bob")))
        await until(lambda: plain.engine.submitted)
        waits = [
            asyncio.create_task(http.post(TEXT, json=PROMPT | {"stream": stream, "n": 2}, headers=by("alice")))
            for stream in (False, True)
        ]
        alice = house.keys.tenants["alice"]
        await until(lambda: (alice.waiting, alice.concurrent) == (4, 2))
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await until(lambda: (alice.waiting, alice.concurrent, alice.remaining_tokens) == (0, 0, 100))
        answer.set()
        assert (await first).status_code == 200
        assert len(plain.engine.submitted) == 1
        assert house.client._live == {}

    house.run(go)


def test_the_engines_end_ends_who_waits(plain: Any, tmp_path: Path) -> None:
    house = House(plain, tmp_path, FILE, max_running=1)

    def script(submit: Any) -> Any:
        yield 0.05
        plain.engine.dead = "rank 0 left"
        yield plain.EngineDead("rank 0 left")

    plain.engine.script = script

    async def go(http: httpx.AsyncClient) -> None:
        posts = [http.post(TEXT, json=PROMPT, headers=by("bob")) for _ in range(4)]
        for response in await asyncio.gather(*posts):
            error(response, 503, "engine_dead")

    house.run(go)


def test_openais_sdk_waits_as_it_is_told(plain: Any, tmp_path: Path, live: Callable[..., str]) -> None:
    house = House(plain, tmp_path, FILE.replace("requests_per_minute: 3", "requests_per_minute: 1"))
    url = live(house.app, house.config) + "/v1"
    with openai.OpenAI(base_url=url, api_key="key-of-alice", max_retries=0, timeout=20) as sdk:
        raw = sdk.completions.with_raw_response.create(model="test-model", prompt="ab", max_tokens=5)
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        assert raw.headers["x-ratelimit-reset-requests"] == "1m0s"
        with pytest.raises(openai.RateLimitError, match="1 requests a minute") as refused:
            sdk.completions.create(model="test-model", prompt="ab", max_tokens=5)
        assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "requests")
        house.now += 59.8  # so that 200 ms are missing, which the retry sees
        calls: list[float] = []

        def see(response: httpx.Response) -> None:
            calls.append(float(response.headers.get("retry-after-ms", 0)))
            house.now += 0.5

        client = httpx.Client(event_hooks={"response": [see]})
        patient = openai.OpenAI(base_url=url, api_key="key-of-alice", max_retries=2, timeout=20, http_client=client)
        assert patient.completions.create(model="test-model", prompt="ab", max_tokens=5).choices[0].text
        assert calls == [pytest.approx(200, abs=2), 0]


def test_flags_contradict_each_other() -> None:
    for more in ({"api_keys": ("some-key-123",)}, {"no_auth": True}):
        with pytest.raises(ValueError, match="--keys-file and --"):
            HttpConfig(("m",), keys_file="keys.yaml", **more)  # type: ignore[arg-type]
    HttpConfig(("m",), host="0.0.0.0", keys_file="keys.yaml")
