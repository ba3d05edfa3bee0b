"""Real ranks under the real agent, over gloo, with the engine of plain Python."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from yardmaster.engine.channel import private_address
from yardmaster.engine.client import EngineDead
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.messages import EngineStats, RankReport, Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.zmq_client import ZmqEngineClient
from yardmaster.parallel.layout import ParallelConfig
from yardmaster.server.launch import Agent

RANK = Path(__file__).with_name("fake_rank.py")
VOCABULARY = 50_000
SLOW_TOKEN = 7


def expected(prompt: list[int], count: int) -> list[int]:
    """As fake_rank.next_token, over and over."""
    state, output = 17, []
    for token in prompt:
        state = (state * 31 + token + 1) % VOCABULARY
    for _ in range(count):
        output.append(state)
        state = (state * 31 + state + 1) % VOCABULARY
    return output


class Run:
    """An engine of `tp` x `dp` ranks, and what it has reported."""

    def __init__(self, client: ZmqEngineClient) -> None:
        self.client = client
        self.stats: dict[int, EngineStats] = {}
        self.reports: dict[int, RankReport] = {}
        client.on_stats(self.stats.__setitem__)
        client.on_report(lambda report: self.reports.__setitem__(report.rank, report))
        self.processes: list[psutil.Process] = []

    def rank(self, rank: int) -> psutil.Process:
        return next(p for p in self.processes if p.environ().get("RANK") == str(rank))

    async def open(self, name: str, prompt: list[int], count: int) -> object:
        params = SamplingParams(max_tokens=count)
        return await self.client.submit(
            Submit(request_id=name, prompt_token_ids=prompt, params=params, arrival=time.time())
        )

    async def tokens(self, name: str, prompt: list[int], count: int) -> list[int]:
        stream = await self.open(name, prompt, count)
        return [token async for output in stream for token in output.token_ids]  # type: ignore[attr-defined]

    async def all_gone(self, seconds: float) -> list[psutil.Process]:
        """The processes that are still there after that time."""
        end = time.monotonic() + seconds
        while (left := [p for p in self.processes if p.is_running() and p.status() != "zombie"]) and (
            time.monotonic() < end
        ):
            await asyncio.sleep(0.05)
        return left


def engine(tp: int, dp: int, body: Callable[[Run], Awaitable[None]], model: str = "m") -> None:
    async def main() -> None:
        config = EngineConfig(
            model=model, device="cpu", num_cpu_threads=1, parallel=ParallelConfig(tp, dp), collective_timeout=30
        )
        with private_address() as address:
            client = ZmqEngineClient(config, address, lambda bound: Agent(config, bound, (sys.executable, str(RANK))))
            run = Run(client)
            others = psutil.Process().children(recursive=True)  # of other tests' fixtures
            try:
                await client.start()
                run.processes = [p for p in psutil.Process().children(recursive=True) if p not in others]
                await body(run)
            finally:
                await client.stop()
                assert await run.all_gone(2) == []

    asyncio.run(main())


def test_two_by_two_ranks_live_and_die(monkeypatch: pytest.MonkeyPatch) -> None:
    """One world for several facts: starting it is what takes the time."""
    monkeypatch.setattr("yardmaster.engine.health.PATIENCE_SECONDS", 30.0)  # the agent's word is what is waited for

    async def body(run: Run) -> None:
        prompts = [[i, *range(i % 23)] for i in range(10, 40)]
        answers = await asyncio.gather(*[run.tokens(f"a{i}", prompt, 8) for i, prompt in enumerate(prompts)])
        assert answers == [expected(prompt, 8) for prompt in prompts]

        # An engine at rest: one request wakes both groups, the idle one steps along with nothing.
        await asyncio.sleep(0.7)
        before = dict(run.stats)
        assert await run.tokens("alone", [11, 12], 6) == expected([11, 12], 6)
        assert sum(run.stats[group].steps - before[group].steps for group in (0, 1)) == 6

        # A reader that leaves frees what its request held.
        stream = await run.open("left", [SLOW_TOKEN, 1], 400)
        await anext(stream)  # type: ignore[call-overload]
        assert max(stats.kv_usage for stats in run.stats.values()) > 0
        await stream.aclose()  # type: ignore[attr-defined]
        end = time.monotonic() + 5
        while max(stats.kv_usage for stats in run.stats.values()) > 0 and time.monotonic() < end:
            await asyncio.sleep(0.05)
        assert [stats.kv_usage for stats in run.stats.values()] == [0.0, 0.0]
        assert set(run.reports) == {0, 1, 2, 3}

        # A follower is killed amid streams of both groups.
        streams = [await run.open(f"s{i}", [SLOW_TOKEN, i], 400) for i in range(4)]
        for stream in streams:
            await anext(stream)  # type: ignore[call-overload]
        victim = run.rank(3)
        start = time.monotonic()
        victim.send_signal(signal.SIGKILL)
        for stream in streams:
            with pytest.raises(EngineDead, match=r"rank 3 .*SIGKILL"):
                async for _ in stream:  # type: ignore[attr-defined]
                    pass
        assert time.monotonic() - start < 5
        with pytest.raises(EngineDead, match="rank 3"):
            await run.tokens("late", [1], 1)
        assert await run.all_gone(10 - (time.monotonic() - start)) == []

    engine(2, 2, body)


def test_an_orderly_end_is_one() -> None:
    async def body(run: Run) -> None:
        stream = await run.open("a", [SLOW_TOKEN], 400)
        await anext(stream)  # type: ignore[call-overload]
        agent = run.processes[0]
        start = time.monotonic()
        stopping = asyncio.create_task(run.client.stop())
        with pytest.raises(EngineDead, match="shutting down"):
            async for _ in stream:  # type: ignore[attr-defined]
                pass
        await stopping
        assert time.monotonic() - start < 8
        assert not agent.is_running()
        assert run.client._ranks is not None
        assert run.client._ranks.ended() == "the launcher of the ranks exited with code 0"

    engine(1, 1, body)


@pytest.mark.slow
@pytest.mark.parametrize(("tp", "dp"), [(2, 1), (1, 2), (1, 4)])
def test_other_worlds(tp: int, dp: int) -> None:
    async def body(run: Run) -> None:
        prompts = [[i, *range(i % 23)] for i in range(10, 30)]
        answers = await asyncio.gather(*[run.tokens(f"a{i}", prompt, 12) for i, prompt in enumerate(prompts)])
        assert answers == [expected(prompt, 12) for prompt in prompts]

    engine(tp, dp, body)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["agent", "rank 0", "stopped"])
def test_other_deaths(victim: str) -> None:
    async def body(run: Run) -> None:
        stream = await run.open("a", [SLOW_TOKEN], 400)
        await anext(stream)  # type: ignore[call-overload]
        process = run.processes[0] if victim == "agent" else run.rank(0 if victim == "rank 0" else 1)
        start = time.monotonic()
        process.send_signal(signal.SIGSTOP if victim == "stopped" else signal.SIGKILL)
        words = {"agent": "launcher .*SIGKILL", "rank 0": "rank 0 .*SIGKILL", "stopped": "rank 1 "}
        with pytest.raises(EngineDead, match=words[victim]):
            async for _ in stream:  # type: ignore[attr-defined]
                pass
        assert time.monotonic() - start < (40 if victim == "stopped" else 8)
        await run.client.stop()
        assert await run.all_gone(5) == []

    engine(2, 1, body)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "words"), [("broken", "model.safetensors: the file is empty"), ("bug", "KeyError")])
def test_a_rank_that_cannot_start(model: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    async def body(run: Run) -> None:
        raise AssertionError("it started")

    with pytest.raises(EngineDead, match=words):
        engine(2, 1, body, model)
    assert ("Traceback" in capfd.readouterr().err) == (model == "bug")
    assert not [p for p in psutil.Process(os.getpid()).children(recursive=True) if p.status() != "zombie"]
