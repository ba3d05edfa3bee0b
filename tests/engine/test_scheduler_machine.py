"""The scheduler as a state machine: every order of events, over ranks that check each cell that they read."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.tests.engine.scheduler_yard import (
    EOS,
    VOCAB,
    Yard,
)

PAGE_SIZES = (1, 1, 2, 3, 4)
WINDOWS = ((None,), (None, 1), (None, 2), (None, 5), (5, None), (None, 4, 7), (3,))
TIGHT = (0, 0, 1, 2, 5, 20, -3)
SEQS = (1, 2, 3, 4, 6)
SPARE_BUDGET = (0, 1, 2, 5, 30)
MAX_MODEL_LEN = (2, 9, 24, 40, 40)
STOPS = ((), (EOS,), (5, 7))


class SchedulerMachine(RuleBasedStateMachine):
    """Every order of events that hypothesis thinks of, down to aborts in the middle of a step."""

    yard: Yard

    @initialize(
        page_size=st.sampled_from(PAGE_SIZES),
        windows=st.sampled_from(WINDOWS),
        tight=st.lists(st.sampled_from(TIGHT), min_size=3, max_size=3),
        max_num_seqs=st.sampled_from(SEQS),
        spare_budget=st.sampled_from(SPARE_BUDGET),
        max_model_len=st.sampled_from(MAX_MODEL_LEN),
        ahead=st.sampled_from([0, 1]),
    )
    def build(self, **sizes: Any) -> None:
        self.yard = Yard(**sizes)

    @rule(
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        late=st.sampled_from([0.0, 0.0, 2.0]),
        max_tokens=st.integers(1, 40),
        min_tokens=st.integers(0, 4),
        stop=st.sampled_from(STOPS),
        ignore_eos=st.booleans(),
        prompt_logprobs=st.sampled_from([None, None, 0, 2]),
        penalty=st.sampled_from([0.0, 0.0, 1.0]),
    )
    def add(
        self,
        prompt: list[int],
        priority: int,
        late: float,
        max_tokens: int,
        min_tokens: int,
        stop: tuple[int, ...],
        ignore_eos: bool,
        prompt_logprobs: int | None,
        penalty: float,
    ) -> None:
        params = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=min(min_tokens, max_tokens),
            stop_token_ids=stop,
            ignore_eos=ignore_eos,
            prompt_logprobs=prompt_logprobs,
            presence_penalty=penalty,
        )
        self.yard.add(prompt, priority, late, params)

    @precondition(lambda self: self.yard.live)
    @rule(which=st.integers(0, 20))
    def abort(self, which: int) -> None:
        self.yard.abort(self.yard.live[which % len(self.yard.live)])

    @precondition(lambda self: len(self.yard.plans) <= self.yard.scheduler.ahead)
    @rule()
    def schedule(self) -> None:
        self.yard.schedule()

    @precondition(lambda self: len(self.yard.outputs) < len(self.yard.plans))
    @rule()
    def execute(self) -> None:
        self.yard.execute()

    @precondition(lambda self: self.yard.outputs)
    @rule()
    def advance(self) -> None:
        self.yard.advance()

    @rule(steps=st.integers(1, 12))
    def run_on(self, steps: int) -> None:
        for _ in range(steps):
            self.yard.step()

    @invariant()
    def pages_are_accounted_for(self) -> None:
        if hasattr(self, "yard"):
            self.yard.pages_are_accounted_for()

    def teardown(self) -> None:
        if hasattr(self, "yard"):
            self.yard.drain()


quick = settings(max_examples=100, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = quick


@pytest.mark.slow
def test_scheduler_machine_long() -> None:
    run_state_machine_as_test(SchedulerMachine, settings=settings(quick, max_examples=2000, stateful_step_count=80))


def rush(seed: int) -> int:
    """One yard under pressure for long; how often it preempted."""
    rng = random.Random(seed)
    slow = rng.random() < 0.5  # long prompts in small chunks, while others decode and want pages
    yard = Yard(
        page_size=1 if slow else rng.choice(PAGE_SIZES),
        windows=rng.choice(WINDOWS),
        tight=rng.choices(TIGHT, k=3),
        max_num_seqs=rng.choice(SEQS[1:]),
        spare_budget=rng.choice(SPARE_BUDGET[:3] if slow else SPARE_BUDGET),
        max_model_len=40,
        ahead=rng.choice([0, 1]),
    )
    for _ in range(120):
        if rng.random() < 0.3:
            yard.add(
                rng.choices(range(VOCAB), k=rng.choice([1, 2, 5, 25 if slow else rng.randint(1, 30)])),
                rng.choice([0, 0, 0, 1, -1]),
                rng.choice([0.0, 0.0, 20.0]),
                SamplingParams(
                    max_tokens=rng.choice([rng.randint(4, 20), 40]),
                    min_tokens=rng.randint(0, 4),
                    stop_token_ids=rng.choice(STOPS),
                    ignore_eos=rng.random() < 0.8,
                    prompt_logprobs=rng.choice([None, None, 0, 2]),
                    presence_penalty=rng.choice([0.0, 0.0, 0.0, 1.0]),
                ),
            )
        if yard.live and rng.random() < 0.03:
            yard.abort(rng.choice(yard.live))
        if len(yard.plans) <= yard.scheduler.ahead:
            yard.schedule()
        elif rng.random() < 0.1:
            continue  # let more happen in the middle of this step
        else:
            yard.step()
    yard.drain()
    return yard.scheduler.stats().preemptions


def test_rush() -> None:
    start = random.randrange(1 << 32)
    preemptions = []
    for seed in range(start, start + 60):
        try:
            preemptions.append(rush(seed))
        except Exception as error:
            error.add_note(f"reproduce: rush({seed})")
            raise
    assert sum(map(bool, preemptions)) >= 10, "the pressure is gone: this test no longer tests preemption"
