"""What a key is charged: tokens of answers of known and open length, settled at their end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from yardmaster.server.fair.client import OPEN_END
from yardmaster.server.http.errors import ApiError
from yardmaster.tests.server.fair.yard import Yard, run, settled


def test_tokens_are_charged_and_settled(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, {"a": "tokens_per_minute: 1000"}, max_running=2)
        a = yard.keys.tenants["a"]
        await yard.submit("a", "1", 100, 300)
        assert a.remaining_tokens == 600
        await yard.submit("a", "2", 200, 400)
        assert a.remaining_tokens == 0
        with pytest.raises(ApiError) as refused:
            await yard.submit("a", "3", 10, 15)
        error = refused.value
        assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "tokens")
        assert "1000 tokens a minute; 0 are left and this request asks for 25" in error.message
        assert (error.headers["retry-after"], error.headers["retry-after-ms"]) == ("2", "1500")
        await yard.give("a-1", 20)
        await yard.give("a-1", 30, "stop")  # 150 of 400 used
        assert a.remaining_tokens == 250
        await yard.client.abort("a-2")  # the engine had its prompt: 200 of 600
        await settled()
        assert a.remaining_tokens == 650
        with pytest.raises(ApiError, match="it can never run") as refused:
            await yard.submit("a", "4", 600, 401)
        assert "retry-after" not in refused.value.headers
        assert refused.value.headers["x-should-retry"] == "false"
        assert a.rejected["tokens"] == 2
        yard.now += 21
        assert a.remaining_tokens == 1000
        assert yard.ends == {"a-1": "stop 50", "a-2": "abort 0"}
        yard.assert_idle()

    run(go)


def test_what_never_ran_costs_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, {"a": "tokens_per_minute: 1000", "b": "weight: 1"}, max_running=1)
        a = yard.keys.tenants["a"]
        await yard.submit("b", "0")
        await yard.submit("a", "waits", 100, 100)
        await yard.submit("a", "late", 100, 100, timeout=0.02)
        assert a.remaining_tokens == 600
        await yard.client.abort("a-waits")
        await asyncio.sleep(0.05)
        assert yard.ends == {"a-waits": "abort 0", "a-late": "deadline_exceeded"}
        assert (a.remaining_tokens, a.prompt_tokens) == (1000, 0)
        assert "a-waits" not in yard.engine.aborted
        await yard.give("b-0", 1, "stop")
        yard.assert_idle()

    run(go)


def test_an_answer_of_open_length_is_charged_as_it_grows(tmp_path: Path) -> None:
    async def go() -> None:
        yard = Yard(tmp_path, {"a": "tokens_per_minute: 3000"})
        a = yard.keys.tenants["a"]
        await yard.submit("a", "open", 500, yard.engine.max_model_len - 500)
        assert a.remaining_tokens == 3000 - 500 - OPEN_END
        await yard.give("a-open", OPEN_END)
        assert a.remaining_tokens == 3000 - 500 - OPEN_END
        await yard.give("a-open", 1000)
        assert a.remaining_tokens == 3000 - 1500 - OPEN_END
        await yard.give("a-open", 1000, "stop")  # now in debt
        assert a.remaining_tokens == 0
        yard.now += 10
        assert a.remaining_tokens == 0
        yard.now += 1
        assert a.remaining_tokens == 3000 - 2500 - OPEN_END + 550
        yard.assert_idle()

    run(go)
