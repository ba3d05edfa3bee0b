"""The load generator against a server whose timing is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from yardmaster.server.cli import main as cli
from yardmaster.server.cli.bench_client import Load, Report, Timing, departures, run, spread, summarize
from yardmaster.tests.server.fake_openai import FakeOpenAI, fake_openai


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with fake_openai() as fake:
        yield fake


def drive(server: FakeOpenAI, **load: object) -> Report:
    return asyncio.run(run(Load(base_url=server.url, **load)))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_percentiles_are_numpys(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    got = spread(values.tolist())
    want = 1000 * np.array([values.mean(), *np.percentile(values, [50, 90, 99]), values.max()])
    np.testing.assert_allclose([got.mean, got.p50, got.p90, got.p99, got.max], want)


def test_departures_are_a_poisson_process() -> None:
    times = np.array(departures(20_000, 50.0, seed=3))
    gaps = np.diff(times)
    assert times[0] == 0.0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)  # an exponential's deviation is its mean
    assert times.tolist() == departures(20_000, 50.0, seed=3)
    assert times.tolist() != departures(20_000, 50.0, seed=4)
    assert departures(3, float("inf"), 0) == [0.0] * 3


def test_times_of_a_slow_server(server: FakeOpenAI) -> None:
    server.first_delay, server.delay = 0.2, 0.2
    timings: list[Timing] = []
    load = Load(base_url=server.url, num_prompts=3, input_len=11, output_len=3)
    report = asyncio.run(run(load, timings.append))
    assert (report.completed, report.failed, report.errors) == (3, 0, {})
    assert (report.prompt_tokens, report.output_tokens) == (33, 9)
    for name, least in (("ttft", 200), ("itl", 200), ("tpot", 200), ("e2e", 600)):
        assert report.spreads[name].p50 < least + 400
    assert report.spreads["ttft"].p50 >= 200
    assert report.spreads["e2e"].p50 >= 600
    # A word that is seen late is nearer to the next one. So by what the server noted, on the same clock: no word was
    # seen before it was sent, and the first ones before the last ones were sent.
    seen = [list(accumulate(timing.itl, initial=timing.start + timing.ttft)) for timing in timings]
    assert [each[-1] for each in seen] == pytest.approx([timing.start + timing.e2e for timing in timings], rel=1e-9)
    words_sent = [sorted(times) for times in zip(*server.sent[1:], strict=True)]  # the first answer was to warm up
    words_seen = [sorted(times) for times in zip(*seen, strict=True)]
    for sent_at, seen_at in zip(words_sent, words_seen, strict=True):
        assert all(a <= b for a, b in zip(sent_at, seen_at, strict=True))
    assert words_seen[0][1] < words_sent[2][1]
    assert report.spreads["e2e"].mean == pytest.approx(
        report.spreads["ttft"].mean + 2 * report.spreads["tpot"].mean, rel=1e-6
    )
    assert report.output_throughput == pytest.approx(9 / report.duration)
    assert report.max_concurrent == 3


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_what_is_sent(server: FakeOpenAI, endpoint: str) -> None:
    report = drive(server, endpoint=endpoint, num_prompts=5, input_len=17, output_len=4, seed=1, api_key="the-key")
    assert report.completed == 5
    assert len(server.bodies) == 6  # one to warm up
    assert server.headers[0]["Authorization"] == "Bearer the-key"
    for body in server.bodies:
        assert (body["max_tokens"], body["stream"], body["ignore_eos"], body["model"]) == (4, True, True, "fake")
        if endpoint == "chat":
            assert len(body["messages"][0]["content"].split()) == 17
        else:
            assert len(body["prompt"]) == 17
            assert set(body["prompt"]) <= set(range(100, 150))
    texts = {json.dumps(body) for body in server.bodies}
    assert len(texts) == 6
    drive(server, endpoint=endpoint, num_prompts=5, input_len=17, output_len=4, seed=1)
    assert {json.dumps(body) for body in server.bodies} == texts
    assert "the-key" not in report.to_json(Load(base_url=server.url, api_key="the-key"))


def test_a_server_without_tokenize_gets_words(server: FakeOpenAI) -> None:
    server.tokenize = False
    drive(server, num_prompts=1, input_len=5)
    assert all(len(body["prompt"].split()) == 5 for body in server.bodies)


def test_concurrency_is_held(server: FakeOpenAI) -> None:
    server.delay = 0.02
    report = drive(server, num_prompts=12, max_concurrency=3)
    assert report.max_concurrent == 3
    assert server.most <= 3


def test_rate_spreads_the_requests(server: FakeOpenAI) -> None:
    report = drive(server, num_prompts=20, request_rate=40.0, seed=5)
    assert report.duration >= departures(20, 40.0, 5)[-1]


def test_errors_are_counted_and_nothing_else_of_them(server: FakeOpenAI) -> None:
    server.fail_every, server.cut_every = 3, 4
    report = drive(server, num_prompts=11)  # answers 2 to 12: 3, 6, 9, 12 fail; 4 and 8 are cut
    assert report.completed == 5
    assert report.failed == 6
    assert report.errors == {"HTTP 503": 4, "ended early": 2}
    assert report.output_tokens == 15


def test_a_first_request_that_fails_ends_it(server: FakeOpenAI) -> None:
    server.fail_every = 1
    with pytest.raises(ConnectionError, match=r"the first request failed: HTTP 503: the queue is full$"):
        drive(server, num_prompts=3)
    assert len(server.bodies) == 1


def test_nothing_measured() -> None:
    report = summarize("m", [Timing(error="HTTP 503")], 1, 0.0)
    assert (report.completed, report.failed, report.spreads, report.request_throughput) == (0, 1, {}, 0.0)


def test_the_command(server: FakeOpenAI, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    flags = ["--num-prompts", "4", "--random-input-len", "8", "--random-output-len", "3", "--endpoint", "chat"]
    assert cli.run(["bench", "serve", "--base-url", f"{server.url}/v1", *flags, "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "4 of 4" in text
    assert "time to first token" in text
    figures = json.loads(out.read_text())
    assert figures["completed"] == 4
    assert figures["load"]["request_rate"] == "inf"
    assert figures["spreads"]["ttft"]["p99"] > 0
    server.fail_every = 1
    assert cli.run(["bench", "serve", "--base-url", server.url]) == 1
    assert "HTTP 503" in capsys.readouterr().err
