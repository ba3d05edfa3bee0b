"""What a leader does when there is nothing to compute: it waits, long or short, and says when it rests."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from yardmaster.cache.manager import CacheManager
from yardmaster.cache.spec import CacheSpec, GroupSpec
from yardmaster.engine.leader import COMPILING_BEAT, Leader
from yardmaster.engine.messages import FromEngine, Shutdown, Submit, ToEngine
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.scheduler import Scheduler, SchedulerConfig
from yardmaster.parallel.control import Control
from yardmaster.parallel.mesh import Mesh


class Wire:
    """Keeps how long each wait might have been; `script` brings what comes, by the number of the wait."""

    def __init__(self, script: Callable[[int], list[ToEngine]]) -> None:
        self.waits: list[float] = []
        self._script = script

    def receive(self, timeout_seconds: float) -> list[ToEngine]:
        self.waits.append(timeout_seconds)
        return self._script(len(self.waits))

    def send(self, message: FromEngine) -> None:
        pass


class Resting:
    """An executor that has nothing to run."""

    def __init__(self) -> None:
        self.rests = 0

    def launch(self, plan: Any, rows: Any) -> Any:
        raise AssertionError("nothing is to be computed")

    def rest(self) -> None:
        self.rests += 1


class Slow:
    """A compiler that never gets there."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()

    def start(self, grammar: str) -> Future[Any]:
        return self.future


def test_a_grammar_that_takes_long_keeps_no_core_busy() -> None:
    submitted = Submit(
        request_id="a", prompt_token_ids=[1], params=SamplingParams(), grammar="start: /a/", arrival=time.time()
    )

    def script(wait: int) -> list[ToEngine]:
        return {2: [submitted], 9: [Shutdown()]}.get(wait, [])

    wire, executor = Wire(script), Resting()
    scheduler = Scheduler(
        SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=8, max_model_len=16),
        CacheManager(CacheSpec(4, (GroupSpec("full", (0,), None, 8),))),
    )
    compiler: Any = Slow()
    Leader(0, scheduler, executor, Control(Mesh.single("cpu")), wire, idle_beat=0.25, grammars=compiler).run()
    assert wire.waits == [0.25] * 2 + [COMPILING_BEAT] * 7
    assert executor.rests == 8
