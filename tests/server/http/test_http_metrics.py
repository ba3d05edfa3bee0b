"""The metrics: what is counted, with which labels, and that Prometheus' own linter finds nothing."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from yardmaster.engine.messages import EngineStats, RankReport
from yardmaster.server.metrics import RANK_SILENCE, Metrics

HELLO = {"messages": [{"role": "user", "content": "my secret prompt"}]}


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def stats(**values: Any) -> EngineStats:
    none = dict.fromkeys(("running", "waiting", "preemptions", "steps", "prompt_tokens", "generation_tokens"), 0)
    return EngineStats(**({"kv_usage": 0.0} | none | values))


def exercise(stage: Any, **config: Any) -> str:
    """A bit of everything, then the scrape."""
    app = stage.app(**config)

    async def go() -> str:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            stage.engine.script = stage.say("four", finish="length")
            await client.post("/v1/chat/completions", json=HELLO | {"n": 2})
            stage.engine.script = stage.say("ab STOP cd")
            await client.post("/v1/completions", json={"prompt": "abc", "stop": "STOP", "stream": True})
            await client.post("/v1/completions", json={"prompt": "abc", "model": "no such model"})
            for place in range(20):
                await client.get(f"/made/up/{place}")
                await client.request(f"BREW{place}", "/health")
                await client.get(f"/v1/models/made-up-{place}")
            return (await client.get("/metrics")).text

    return anyio.run(go)


def test_requests_are_counted(plain: Any) -> None:
    text = exercise(plain)
    found = samples(text)

    def value(name: str, **labels: str) -> float:
        return found["yardmaster_" + name, tuple(sorted(labels.items()))]

    four, stopped = len(plain.ids("four")), len(plain.ids("ab STOP"))
    assert value("request_success_total", finished_reason="length") == 2
    assert value("request_success_total", finished_reason="stop") == 1
    assert value("request_success_total", finished_reason="abort") == 0
    assert value("time_to_first_token_seconds_count") == 3
    assert value("inter_token_latency_seconds_count") == 2 * (four - 1) + stopped - 1
    assert value("e2e_request_latency_seconds_count") == 3
    assert value("request_queue_time_seconds_count") == 3
    assert value("request_queue_time_seconds_sum") == 0.75
    assert value("request_generation_tokens_sum") == 2 * four + stopped
    assert value("request_prompt_tokens_sum") == sum(len(each.prompt_token_ids) for each in plain.engine.submitted)
    assert value("http_requests_total", handler="/v1/chat/completions", method="POST", status="200") == 1
    assert value("http_requests_total", handler="/v1/completions", method="POST", status="404") == 1
    assert value("http_requests_total", handler="unmatched", method="GET", status="404") == 20
    assert value("http_requests_total", handler="/v1/models/{model:path}", method="GET", status="404") == 20
    others = [
        labels for name, labels in found if name.endswith("http_requests_total") and ("method", "OTHER") in labels
    ]
    assert len(others) == 1
    assert "secret" not in text
    assert "made" not in text


def test_engine_and_ranks() -> None:
    now = [100.0]
    metrics = Metrics("some/model", "1.2", clock=lambda: now[0])

    class Engine:
        dead: str | None = None
        ready = False

        def on_stats(self, listener: Any) -> None:
            self.stats = listener

        def on_report(self, listener: Any) -> None:
            self.report = listener

    engine = Engine()
    metrics.watch(engine)  # type: ignore[arg-type]
    engine.stats(0, stats(running=1, steps=1))
    engine.stats(0, stats(running=3, waiting=2, kv_usage=0.5, preemptions=4, steps=7, prompt_tokens=11))
    engine.stats(1, stats(generation_tokens=13))
    engine.report(RankReport(rank=0, expert_tokens=5, layer_imbalance=[1.0, 2.5], dispatch_seconds=0.5))
    now[0] += RANK_SILENCE - 1
    engine.report(RankReport(rank=3, expert_tokens=9, layer_imbalance=[1.5, 2.0], combine_bytes=1 << 40))
    now[0] += 2

    def read() -> Any:
        found = samples(metrics.render().decode())
        return lambda name, **labels: found["yardmaster_" + name, tuple(sorted(labels.items()))]

    value = read()
    assert value("build_info", model_name="some/model", version="1.2") == 1
    assert [value("num_requests_running", engine=group) for group in "01"] == [3, 0]
    assert value("num_requests_waiting", engine="0") == 2
    assert value("kv_cache_usage_perc", engine="0") == 0.5
    assert value("num_preemptions_total", engine="0") == 4
    assert value("engine_steps_total", engine="0") == 7
    assert value("prompt_tokens_total", engine="0") == 11
    assert value("generation_tokens_total", engine="1") == 13
    assert [value("rank_up", rank=rank) for rank in "03"] == [0, 1]
    assert [value("expert_tokens_total", rank=rank) for rank in "03"] == [5, 9]
    assert [value("expert_imbalance", layer=layer) for layer in "01"] == [1.5, 2.5]
    assert value("dispatch_seconds_total", rank="0") == 0.5
    assert value("combine_bytes_total", rank="3") == 1 << 40
    assert value("engine_up") == 0  # it loads
    engine.ready = True
    assert read()("engine_up") == 1
    engine.dead = "rank 0 left"
    value = read()
    assert value("engine_up") == 0
    assert [value("rank_up", rank=rank) for rank in "03"] == [0, 0]


def test_the_engine_is_up_while_it_takes_requests(plain: Any) -> None:
    """As /ready says."""
    app = plain.app()

    async def look() -> tuple[int, float]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            found = samples((await client.get("/metrics")).text)
            return (await client.get("/ready")).status_code, found["yardmaster_engine_up", ()]

    plain.engine.ready = False
    assert anyio.run(look) == (503, 0)
    plain.engine.ready = True
    assert anyio.run(look) == (200, 1)
    plain.engine.dead = "rank 0 left"
    assert anyio.run(look) == (503, 0)


def test_the_time_of_the_start_stays() -> None:
    before = time.time()
    metrics = Metrics("a", "0")
    after = time.time()
    first, second = (samples(metrics.render().decode())["yardmaster_start_time_seconds", ()] for _ in range(2))
    assert before <= first == second <= after


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's package prometheus")
def test_promtool_finds_nothing(harmony: Any) -> None:
    for group in range(2):
        harmony.engine.stats[0](group, stats(running=1))
        harmony.engine.reports[0](RankReport(rank=group, layer_imbalance=[1.0, 1.5]))
    text = exercise(harmony)
    found = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_registries_are_apart() -> None:
    first, second = Metrics("a", "0"), Metrics("b", "0")
    first.request_success.labels("stop").inc()
    assert b'finished_reason="stop"} 0.0' in second.render()
