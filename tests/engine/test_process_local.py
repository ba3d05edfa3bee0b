"""The leader's loop in one thread (`LocalEngineClient`) and in lockstep of several, with the engine of plain Python."""

from __future__ import annotations

import asyncio
import importlib.util
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from yardmaster.cache.manager import CacheManager
from yardmaster.cache.spec import CacheSpec, GroupSpec
from yardmaster.engine.client import EngineDead
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.follower import follow
from yardmaster.engine.leader import Leader
from yardmaster.engine.local_client import LocalEngineClient
from yardmaster.engine.messages import Abort, EngineStats, FromEngine, Outputs, RankReport, Shutdown, Submit, ToEngine
from yardmaster.engine.plan import StepPlan
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.scheduler import Scheduler, SchedulerConfig
from yardmaster.engine.step import Done, SamplingRow, StepOutput


def load_fake() -> ModuleType:
    path = Path(__file__).with_name("fake_rank.py")
    spec = importlib.util.spec_from_file_location("yardmaster_fake_rank", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


fake = load_fake()


def expected(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(fake.next_token(tokens))
    return tokens[len(prompt) :]


def config(**changes: Any) -> EngineConfig:
    limits = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16, max_model_len=1 << 20)
    return EngineConfig(model="m", device="cpu", num_cpu_threads=1, scheduler=limits, **changes)


def submit(name: str, prompt: list[int], **params: Any) -> Submit:
    return Submit(request_id=name, prompt_token_ids=prompt, params=SamplingParams(**params), arrival=time.time())


async def collect(client: LocalEngineClient, request: Submit) -> list[int]:
    return [token async for output in await client.submit(request) for token in output.token_ids]


def test_many_requests_in_this_process() -> None:
    async def main() -> None:
        client = LocalEngineClient(config(), fake.build)
        assert not client.ready
        reports: list[RankReport] = []
        client.on_report(reports.append)
        await client.start()
        assert client.max_model_len == 512
        prompts = [[size, *range(size)] for size in (1, 2, 16, 17, 40, 3, 5, 8, 13)]
        requests = [submit(str(i), prompt, max_tokens=10 + i) for i, prompt in enumerate(prompts)]
        answers = await asyncio.gather(*[collect(client, request) for request in requests])
        assert answers == [expected(prompt, 10 + i) for i, prompt in enumerate(prompts)]
        await client.stop()
        await client.stop()
        assert reports
        assert reports[0].layer_imbalance == [1.25]
        with pytest.raises(EngineDead):
            await client.submit(requests[0])

    asyncio.run(main())


def test_a_stopped_engine_holds_no_model() -> None:
    made: list[weakref.ref[Any]] = []

    def build(config: EngineConfig, mesh: Any, report: Callable[[str], None]) -> Any:
        built = fake.build(config, mesh, report)
        built.cycle = built  # as models may have, whose layers know each other
        made.append(weakref.ref(built))
        return built

    async def main() -> None:
        client = LocalEngineClient(config(), build)
        client.on_report(lambda report: None)
        await client.start()
        await collect(client, submit("a", [1, 2], max_tokens=3))
        assert made[0]() is not None
        await client.stop()
        assert made[0]() is None
        assert client.dead is not None

    asyncio.run(main())


def test_an_early_close_frees_and_a_bad_request_is_refused() -> None:
    async def main() -> None:
        client = LocalEngineClient(config(), fake.build)
        latest: list[EngineStats] = []
        client.on_stats(lambda group, stats: latest.append(stats))
        await client.start()
        stream = await client.submit(submit("slow", [fake.SLOW_TOKEN], max_tokens=400))
        await anext(stream)
        assert latest[-1].running == 1
        await stream.aclose()
        for _ in range(100):
            if latest[-1].running == 0:
                break
            await asyncio.sleep(0.02)
        assert latest[-1].running == 0
        assert latest[-1].kv_usage == 0.0
        outputs = [output async for output in await client.submit(submit("long", [1] * 600))]
        assert [output.finish_reason for output in outputs] == ["error"]
        assert "511" in (outputs[0].error or "")
        await client.stop()

    asyncio.run(main())


@pytest.mark.parametrize("model", ["broken", "bug"])
def test_a_start_that_fails(model: str) -> None:
    async def main() -> None:
        client = LocalEngineClient(EngineConfig(model=model, device="cpu"), fake.build)
        with pytest.raises(EngineDead, match=r"the file is empty|nobody"):
            await client.start()
        assert client.dead

    asyncio.run(main())


def test_a_step_that_fails_ends_every_stream() -> None:
    def build(engine: EngineConfig, mesh: Any, report: Callable[[str], None]) -> Any:
        built = fake.build(engine, mesh, report)
        steps = iter(range(100))
        run = built.executor.launch

        def launch(plan: StepPlan, rows: Sequence[SamplingRow]) -> Done:
            if next(steps) == 5:
                raise RuntimeError("a kernel failed")
            return run(plan, rows)

        built.executor.launch = launch
        return built

    async def main() -> None:
        client = LocalEngineClient(config(), build)
        await client.start()
        requests = [submit(name, [1, 2], max_tokens=50) for name in "abc"]
        results = await asyncio.gather(*[collect(client, request) for request in requests], return_exceptions=True)
        assert all(isinstance(result, EngineDead) and "a kernel failed" in str(result) for result in results)
        assert "a kernel failed" in (client.dead or "")
        await client.stop()

    asyncio.run(main())


class Lockstep:
    """The control channel between threads: `agree` and `share_bytes` meet at barriers, which break on a stall."""

    def __init__(self, tp: int, dp: int) -> None:
        self.board: dict[object, Any] = {}
        self.all_leaders = threading.Barrier(dp, timeout=20)
        self.groups = [threading.Barrier(tp, timeout=20) for _ in range(dp)]
        self.world = threading.Barrier(tp * dp, timeout=20)
        self.dp = dp

    def rank(self, group: int, leader: bool) -> Any:
        def agree(values: Sequence[int]) -> list[list[int]]:
            self.board["agree", group] = list(values)
            self.all_leaders.wait()
            every = [self.board["agree", index] for index in range(self.dp)]
            self.all_leaders.wait()
            return every

        def share_bytes(data: bytes | None) -> bytes:
            if leader:
                self.board["bytes", group] = data
            self.groups[group].wait()
            shared = self.board["bytes", group]
            self.groups[group].wait()
            return shared

        return SimpleNamespace(agree=agree, share_bytes=share_bytes)


class Executor:
    """As FakeExecutor, with a barrier of threads for the all-to-all: every rank must come to every step."""

    def __init__(self, lockstep: Lockstep, leader: bool) -> None:
        self.lockstep, self.leader = lockstep, leader
        self.plans: list[StepPlan] = []

    def rest(self) -> None:
        pass

    def launch(self, plan: StepPlan, rows: Sequence[SamplingRow]) -> Done:
        self.lockstep.world.wait()
        self.plans.append(plan)
        if not self.leader:
            return Done(StepOutput([], []))
        tokens = [fake.next_token([*row.prompt_token_ids, *row.output_token_ids]) for row in rows]
        return Done(StepOutput(tokens, [None] * len(tokens)))


class Wire:
    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        self.sent: list[FromEngine] = []

    def receive(self, timeout_seconds: float) -> list[ToEngine]:
        messages: list[ToEngine] = []
        try:
            messages.append(self.inbox.get(timeout=timeout_seconds or 1e-6))
            while True:
                messages.append(self.inbox.get_nowait())
        except queue.Empty:
            return messages

    def send(self, message: FromEngine) -> None:
        self.sent.append(message)

    def tokens(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for message in self.sent:
            for output in message.outputs if isinstance(message, Outputs) else ():
                found.setdefault(output.request_id, []).extend(output.token_ids)
        return found


@pytest.mark.parametrize(("tp", "dp"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_all_ranks_step_together_and_end_together(tp: int, dp: int) -> None:
    lockstep = Lockstep(tp, dp)
    limits = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=8, max_model_len=256)
    wires, executors, threads, errors = [Wire() for _ in range(dp)], [], [], []

    def guarded(run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:
            errors.append(error)

    for group in range(dp):
        for index in range(tp):
            executor = Executor(lockstep, index == 0)
            executors.append(executor)
            control = lockstep.rank(group, index == 0)
            if index == 0:
                cache = CacheManager(CacheSpec(4, (GroupSpec("full", (0,), None, 64),)))
                leader = Leader(group, Scheduler(limits, cache), executor, control, wires[group], idle_beat=0.05)
                run: Callable[[], None] = leader.run
            else:
                run = lambda executor=executor, control=control: follow(executor, control)  # noqa: E731
            threads.append(threading.Thread(target=guarded, args=(run,), daemon=True))
    prompts = {f"r{i}": [i, *range(i * 3)] for i in range(1, 8)}
    last = wires[-1]  # all work goes to one group: the others step with nothing
    for name, prompt in prompts.items():
        last.inbox.put(submit(name, prompt, max_tokens=9))
    last.inbox.put(submit("gone", [1] * 20, max_tokens=200))
    last.inbox.put(Abort("gone"))
    for thread in threads:  # with all of it there: "gone" goes before it has said a word
        thread.start()
    deadline = time.monotonic() + 20
    while sum(map(len, last.tokens().values())) < 9 * 7 and time.monotonic() < deadline and not errors:
        time.sleep(0.01)
    time.sleep(0.12)  # beats of an idle engine
    wires[0].inbox.put(Shutdown())
    for thread in threads:
        thread.join(10)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    assert last.tokens() == {name: expected(prompt, 9) for name, prompt in prompts.items()}
    for group in range(dp):
        mine = executors[group * tp : (group + 1) * tp]
        assert len({len(executor.plans) for executor in executors}) == 1
        assert all(executor.plans == mine[0].plans for executor in mine)
        if group < dp - 1:
            assert not any(plan.shares for plan in mine[0].plans)
    assert all(any(e.plans[step].shares for e in executors) for step in range(len(executors[0].plans)))
    final = last.sent[-1]
    assert isinstance(final, Outputs)
    assert (final.stats.running, final.stats.waiting, final.stats.kv_usage) == (0, 0, 0.0)
