"""What is made to hang is refused within its limit; however much of it comes, honest requests are answered."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from yardmaster.server.text.grammar_process import QUICK, GrammarChecks
from yardmaster.server.text.lanes import Busy, Lanes
from yardmaster.server.text.template import ChatTemplate

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LIMIT = 1.0
HANGING_LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATE = "{% if messages[0].content == 'hang' %}" + HANGING_LOOPS + "{% endif %}{{ messages[0].content }}:"


def pattern(number: int) -> dict[str, Any]:
    """Of a schema whose automata have no end; no two are the same."""
    ends = [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}{number}$"} for i in range(1, 40)]
    return {"allOf": ends}


def answer_format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


def function(schema: Any, **more: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, **more}}
    return {"messages": [{"role": "user", "content": "a"}], "tools": [tool], "tool_choice": "required"}


def hanging(number: int) -> tuple[str, dict[str, Any]]:
    schema = pattern(number)
    forms: list[tuple[str, dict[str, Any]]] = [
        (TEXT, {"prompt": "a", **answer_format(schema)}),
        (TEXT, {"prompt": "a", "structured_outputs": {"json": schema}}),
        (TEXT, {"prompt": "a", "guided_json": schema}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], **answer_format(schema)}),
        (CHAT, function(schema)),
        (CHAT, function(schema, strict=True)),
    ]
    return forms[number % len(forms)]


@pytest.fixture(scope="module")
def checks() -> GrammarChecks:
    return GrammarChecks(LIMIT)


@pytest.fixture
def house(harmony: Any, open_house: Callable[..., Any], checks: GrammarChecks) -> Any:
    return open_house(harmony, checks=checks)


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return await http.post(path, json=body), time.monotonic() - began


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 6))])
def test_one_that_hangs_gets_a_400_in_time(house: Any, number: int) -> None:
    path, body = hanging(number)

    async def run() -> None:
        async with httpx.AsyncClient(base_url=house.url, headers=house.headers(), timeout=60) as http:
            slow = asyncio.create_task(post(http, path, body))
            await asyncio.sleep(0.3)
            response, took = await post(http, TEXT, {"prompt": "a", "structured_outputs": {"regex": "a+b?"}})
            assert response.status_code == 200
            response, took = await slow
            assert response.status_code == 400, response.text
            assert "takes more than 1 s" in response.json()["error"]["message"]
            assert LIMIT <= took < LIMIT + 5

    asyncio.run(run())
    assert len(house.stage.engine.submitted) == 1


@pytest.mark.slow
def test_many_that_hang_hold_up_no_honest_one(harmony: Any, open_house: Callable[..., Any]) -> None:
    """Each is stopped at its limit, or as soon as it is seen to be slow while others are; what is honest passes."""
    limit, many = 10.0, 12  # one after the other, four at once, they would take 30 seconds
    house = open_house(harmony, checks=GrammarChecks(limit))

    async def run() -> None:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=house.url, headers=house.headers(), timeout=60, limits=limits) as http:
            slow = [asyncio.create_task(post(http, *hanging(number))) for number in range(many)]
            await asyncio.sleep(0.2)
            honest = [
                asyncio.create_task(post(http, TEXT, {"prompt": "a", "structured_outputs": {"choice": ["a", str(i)]}}))
                for i in range(8)
            ]
            plain = [asyncio.create_task(post(http, CHAT, {"messages": [{"role": "user", "content": "a"}]}))]
            for response, took in await asyncio.gather(*honest, *plain):
                assert response.status_code == 200, response.text
                assert took < 0.7 * many * limit / QUICK
            found = [response for response, _ in await asyncio.gather(*slow)]
            codes = [response.json()["error"]["code"] for response in found]
            assert {response.status_code for response in found} <= {400, 503}
            assert sum(response.status_code == 400 for response in found) >= 2
            assert {code for code, response in zip(codes, found, strict=True) if response.status_code == 503} <= {
                "server_busy"
            }

    asyncio.run(run())


IMPOSSIBLE: list[dict[str, Any]] = [
    {"grammar": 'root ::= "a" nothere'},
    {"grammar": "a ::= b"},
    {"grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000},
    {"grammar": 'start: "a" start start' * 3000},
    {"grammar": "start: " + "(" * 20_000},
    {"regex": "(" * 50_000 + ")" * 50_000},
    {"regex": "a{1,999999999}"},
    {"regex": "[" * 1000},
    {"json": {"$ref": "#"}},
    {"json": {"$ref": "#/definitions/" + "a" * 10_000}},
    {"json": {"$ref": "http://example.invalid/schema"}},
    {"json": {"enum": []}},
    {"json": {"pattern": "(?<=a)b", "type": "string"}},
    {"json": {"minItems": 1 << 40, "type": "array"}},
    {"json": {"multipleOf": 1e-300, "type": "number"}},
    {"json": {"minimum": 2, "maximum": 1, "type": "integer"}},
    {"json": "not json"},
    {"choice": ["\u0000", "\ud800"]},
]


def test_a_form_that_cannot_be_is_refused_or_served(house: Any) -> None:
    with house.http() as http:
        for asked in IMPOSSIBLE:
            began = time.monotonic()
            raw = json.dumps({"prompt": "a", "structured_outputs": asked})
            response = http.post(TEXT, content=raw, headers={"content-type": "application/json"})
            assert response.status_code in (200, 400), (str(asked)[:80], response.text)
            assert time.monotonic() - began < 10
        assert http.post(TEXT, json={"prompt": "a"}).status_code == 200


def test_slow_work_makes_room_for_quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yardmaster.server.text.lanes.QUICK_SECONDS", 0.02)
    monkeypatch.setattr("yardmaster.server.text.lanes.PATIENCE", 0.05)
    monkeypatch.setattr("yardmaster.server.text.lanes.LONGEST", 0.05)
    monkeypatch.setattr("yardmaster.server.text.lanes.SLOW_NICENESS", os.getpriority(os.PRIO_PROCESS, 0))
    silent, other = socket.socketpair()
    answered, answering = socket.socketpair()
    answering.send(b"x")
    lanes = Lanes(1, 2)
    with silent, other, answered, answering:
        with lanes.place() as first:
            with pytest.raises(Busy), lanes.place():  # the only quick place is taken …
                pass
            first.await_answer(silent, os.getpid())  # … until it is seen that this work is slow
            with lanes.place() as second:
                second.await_answer(silent, os.getpid())
                with lanes.place() as third:
                    third.await_answer(answered, os.getpid())
                    with pytest.raises(Busy):  # no more slow places
                        third.await_answer(silent, os.getpid())
                second.await_answer(silent, os.getpid())  # keeps the place that it has
        with lanes.place() as again:
            again.await_answer(silent, os.getpid())
            with lanes.place() as another:
                another.await_answer(silent, os.getpid())


@pytest.mark.slow
def test_conversations_that_hang_the_template(plain: Any, open_house: Callable[..., Any]) -> None:
    plain.template = ChatTemplate(TEMPLATE, plain.tokenizer, time_limit=LIMIT)
    house = open_house(plain)

    async def run() -> None:
        def body(text: str) -> dict[str, Any]:
            return {"messages": [{"role": "user", "content": text}]}

        async with httpx.AsyncClient(base_url=house.url, headers=house.headers(), timeout=60) as http:
            one = asyncio.create_task(post(http, CHAT, body("hang")))
            await asyncio.sleep(0.05)
            assert (await post(http, CHAT, body("a")))[0].status_code == 200
            response, took = await one
            assert (response.status_code, response.json()["error"]["code"]) == (400, "chat_template_error")
            assert "ran longer than 1 s" in response.json()["error"]["message"]
            assert took < LIMIT + 5
            many = [asyncio.create_task(post(http, CHAT, body("hang"))) for _ in range(16)]
            await asyncio.sleep(0.05)
            began = time.monotonic()
            for path, asked in ((CHAT, body("b")), ("/tokenize", {"prompt": "c" * 10_000})):
                assert (await post(http, path, asked))[0].status_code == 200
            assert time.monotonic() - began < 16 * LIMIT
            found = [response.status_code for response, _ in await asyncio.gather(*many)]
            assert set(found) <= {400, 503}
            assert found.count(400) >= 2

    asyncio.run(run())
    plain.template.close()
