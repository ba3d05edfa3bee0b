"""The loop of a data-parallel group's first rank: requests in, steps ordered, tokens out.

All groups step together, because the experts are spread over all ranks: a group without work takes part with an empty
plan as long as another has some. When none has, each waits at its own inbox for at most a beat; `Wake` ends that wait.

With steps planned ahead the device always has the next one in its queue: this loop then takes in what a step brought
while the one after it runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ..cache.manager import CacheManager
from ..cache.spec import CacheSpec
from .compiling import Compiling, refusal
from .config import EngineConfig
from .follower import IDLE, STOP, Share, encode_plan
from .grammar import Grammar, GrammarCompiler
from .messages import Abort, EngineStats, FromEngine, Outputs, RequestOutput, Shutdown, Submit, ToEngine
from .plan import StepPlan
from .request import Request
from .scheduler import QueueFull, Scheduler
from .step import Executor, Launched

IDLE_BEAT = 0.5  # seconds; well below any collective's deadline, for the others wait in one meanwhile
COMPILING_BEAT = 0.002  # between two looks at grammars that are being compiled, when there is nothing else to do
IDLE_STATE, COMPILING_STATE, WORKING_STATE = range(3)  # of a group


class Control(Share, Protocol):
    def agree(self, values: Sequence[int]) -> list[list[int]]:
        """Every leader's values, in the order of the groups."""


class Wire(Protocol):
    """The way to the front end: a socket, or queues in one process."""

    def receive(self, timeout_seconds: float) -> list[ToEngine]:
        """All that has come; waits up to `timeout_seconds` for the first."""

    def send(self, message: FromEngine) -> None: ...


class Built(Protocol):
    """What a leader needs of the rank's built engine."""

    @property
    def executor(self) -> Executor: ...
    @property
    def cache_spec(self) -> CacheSpec: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def ahead(self) -> int: ...
    @property
    def grammars(self) -> GrammarCompiler | None: ...


class Leader:
    """One group's requests, its executor and its wire. `run` returns when any group's front end said Shutdown."""

    def __init__(
        self,
        group: int,
        scheduler: Scheduler,
        executor: Executor,
        control: Control,
        wire: Wire,
        idle_beat: float = IDLE_BEAT,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self._group = group
        self._scheduler = scheduler
        self._executor = executor
        self._control = control
        self._wire = wire
        self._waits = {IDLE_STATE: idle_beat, COMPILING_STATE: min(COMPILING_BEAT, idle_beat), WORKING_STATE: 0.0}
        self._stats: EngineStats | None = None
        self._launched: deque[tuple[StepPlan, Launched]] = deque()
        self._compiling = Compiling(grammars)

    @classmethod
    def of(cls, config: EngineConfig, group: int, built: Built, control: Control, wire: Wire) -> Leader:
        limits = replace(config.scheduler, max_model_len=built.max_model_len)
        scheduler = Scheduler(limits, CacheManager(built.cache_spec), ahead=built.ahead)
        return cls(group, scheduler, built.executor, control, wire, grammars=built.grammars)

    def run(self) -> None:
        """Raises what the control channel and the executor raise: after that, the run is over."""
        state = IDLE_STATE  # of the group that has most to do
        while True:
            refused, stop = self._take_in(self._waits[state])
            plan = self._scheduler.schedule()
            agreed = self._control.agree([plan.num_tokens, stop, self._state()])
            if any(stopping for _, stopping, _ in agreed):
                self._control.share_bytes(STOP)
                return
            busy = any(tokens for tokens, _, _ in agreed)
            state = max(states for _, _, states in agreed)
            self._control.share_bytes(encode_plan(plan) if busy else IDLE)
            if busy:
                self._launched.append((plan, self._executor.launch(plan, self._scheduler.rows(plan))))
            elif state < WORKING_STATE:
                self._executor.rest()
            self._tell(refused + self._collect(self._scheduler.ahead if busy else 0))

    def _state(self) -> int:
        if self._scheduler.has_work:
            return WORKING_STATE
        return COMPILING_STATE if self._compiling else IDLE_STATE

    def _collect(self, ahead: int) -> list[RequestOutput]:
        """What the steps have brought, but for the `ahead` last ones, which the device may still be working on."""
        outputs: list[RequestOutput] = []
        while len(self._launched) > ahead:
            plan, launched = self._launched.popleft()
            outputs += self._scheduler.advance(plan, launched.output())
        return outputs

    def _take_in(self, timeout_seconds: float) -> tuple[list[RequestOutput], bool]:
        """Read the inbox; the refusals to send back, and whether to stop."""
        refused = []
        stop = False
        for message in self._wire.receive(timeout_seconds):
            match message:
                case Submit(grammar=None):
                    refused += self._add(message, None)
                case Submit():
                    self._compiling.start(message)
                case Abort(request_id):
                    if not self._compiling.abort(request_id):
                        self._scheduler.abort(request_id)
                case Shutdown():
                    stop = True
        for message, grammar in self._compiling.ready():
            refused += [refusal(message, grammar)] if isinstance(grammar, Exception) else self._add(message, grammar)
        return refused, stop

    def _add(self, message: Submit, grammar: Grammar | None) -> list[RequestOutput]:
        """Its refusal, when it is refused."""
        try:
            self._scheduler.add(Request(message, 0, grammar))  # the client has put a seed into the parameters
        except (ValueError, QueueFull) as error:
            return [refusal(message, error)]
        return []

    def _tell(self, outputs: list[RequestOutput]) -> None:
        stats = self._scheduler.stats()
        if outputs or stats != self._stats:
            self._stats = stats
            self._wire.send(Outputs(self._group, outputs, stats))
