"""What an operator sees and does over HTTP: keys and their use, another file, draining, metrics; no key anywhere."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from yardmaster.tests.server.fair.house import FILE, PROMPT, TEXT, House, by, error, held, limits, until


def test_admin_routes(house: House, plain: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def go(http: httpx.AsyncClient) -> None:
        for method, path in (("GET", "/admin/keys"), ("POST", "/admin/drain"), ("POST", "/admin"), ("GET", "/admin/x")):
            error(await http.request(method, path, headers=by("bob")), 403, "admin_key_required")
        error(await http.get("/admin/nothing", headers=by("ops")), 404, "unknown_url")
        await http.post(TEXT, json=PROMPT, headers=by("alice"))
        await http.post(TEXT, json=PROMPT | {"max_tokens": 200}, headers=by("alice"))
        response = await http.get("/admin/keys", headers=by("ops"))
        assert "key-of" not in response.text
        assert not re.search("[0-9a-f]{64}", response.text)
        body = response.json()
        assert (body["object"], body["draining"]) == ("list", False)
        assert [each["name"] for each in body["data"]] == ["alice", "bob", "ops"]
        alice = body["data"][0]
        tokens = plain.engine.submitted[0].prompt_token_ids
        assert alice["usage"] == {
            "requests": 2,
            "prompt_tokens": len(tokens),
            "completion_tokens": len(plain.ids("hello")) + 1,
            "rejected": {"tokens": 1},
            "concurrent": 0,
            "sequences_running": 0,
            "sequences_waiting": 0,
            "remaining_requests": 1,
            "remaining_tokens": 100 - 3 - len(plain.ids("hello")) - 1,
        }
        assert (alice["admin"], alice["weight"], alice["tokens_per_minute"], alice["max_concurrent"]) == (
            False, 1.0, 100, 2,
        )  # fmt: skip
        house.file.write_text(FILE.replace("key-of-bob-1", "key-of-bob-2"))
        response = await http.post("/admin/keys/reload", headers=by("ops"))
        assert response.json() == {"keys": 3}
        error(await http.get("/v1/models", headers=by("bob")), 401, "invalid_api_key")
        assert (await http.get("/v1/models", headers={"authorization": "Bearer key-of-bob-2"})).status_code == 200
        house.file.write_text("keys: [key-of-alice")
        with caplog.at_level(logging.ERROR):
            told = error(await http.post("/admin/keys/reload", headers=by("ops")), 409, "invalid_keys_file")
        assert "not valid YAML" in told["message"]
        assert "the keys stay as they are" in caplog.text
        assert "key-of" not in caplog.text + told["message"]
        assert (await http.get("/v1/models", headers=by("alice"))).status_code == 200
        house.file.write_text(FILE.replace(", admin: true", ""))
        await http.post("/admin/keys/reload", headers=by("ops"))
        for name in ("ops", "alice"):
            error(await http.get("/admin/keys", headers=by(name)), 404, "unknown_url")

    house.run(go)


def test_draining(house: House, plain: Any) -> None:
    answer = asyncio.Event()
    plain.engine.script = held(plain.say("slow"), answer)

    async def go(http: httpx.AsyncClient) -> None:
        first = asyncio.create_task(http.post(TEXT, json=PROMPT, headers=by("bob")))
        await until(lambda: plain.engine.submitted)
        response = await http.post("/admin/drain", headers=by("ops"))
        assert response.json() == {"draining": True, "requests": 1, "sequences_running": 1, "sequences_waiting": 0}
        response = await http.post(TEXT, json=PROMPT, headers=by("bob"))
        error(response, 503, "draining")
        assert response.headers["retry-after"]
        error(await http.get("/ready"), 503, "draining")
        assert (await http.get("/health")).status_code == 200
        figures = (await http.get("/metrics")).text  # alerts leave probes out, by their names
        assert 'yardmaster_http_requests_total{handler="/ready",method="GET",status="503"} 1.0' in figures
        assert (await http.get("/v1/models", headers=by("bob"))).status_code == 200
        answer.set()
        assert (await first).status_code == 200
        assert (await http.post("/admin/drain", headers=by("ops"))).json()["requests"] == 0
        assert (await http.delete("/admin/drain", headers=by("ops"))).json()["draining"] is False
        assert (await http.get("/ready")).status_code == 200
        assert (await http.post(TEXT, json=PROMPT, headers=by("bob"))).status_code == 200

    house.run(go)


def test_without_a_keys_file_there_are_no_admin_routes(plain: Any) -> None:
    async def go() -> None:
        app = plain.app(api_keys=("some-key-123",))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            for method, path in (("GET", "/admin/keys"), ("POST", "/admin/drain"), ("POST", "/admin/keys/reload")):
                response = await http.request(method, path, headers={"authorization": "Bearer some-key-123"})
                error(response, 404, "unknown_url")
            response = await http.post(TEXT, json=PROMPT, headers={"authorization": "Bearer some-key-123"})
            assert not limits(response)

    anyio.run(go)


def test_metrics(house: House, plain: Any) -> None:
    async def go(http: httpx.AsyncClient) -> None:
        await http.post(TEXT, json=PROMPT, headers=by("alice"))
        await http.post(TEXT, json=PROMPT | {"max_tokens": 200}, headers=by("alice"))
        await http.post(TEXT, json=PROMPT, headers={"authorization": "Bearer made-up-key"})
        text = (await http.get("/metrics")).text
        assert "key-of" not in text
        assert "made-up" not in text
        found = {
            (sample.name.removeprefix("yardmaster_key_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("yardmaster_key_")
        }
        assert found["requests_total", "alice"] == 2
        assert found["tokens_total", "alice", "prompt"] == 3
        assert found["tokens_total", "alice", "generation"] == len(plain.ids("hello")) + 1
        assert found["rejected_total", "alice", "tokens"] == 1
        assert found["sequences_waiting", "bob"] == found["sequences_running", "bob"] == 0
        assert {labels[1] for labels in found} == {"alice", "bob", "ops", "internal"}
        assert len(found) == 4 * (1 + 2 + 5 + 2)

    house.run(go)
