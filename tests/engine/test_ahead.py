"""Steps planned ahead and steps run from fixed memory bring what plain ones bring: tokens, log-probabilities, ends.

A captured step is here its own capture: the same code on the same padded inputs, without a graph.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
import torch

from yardmaster.cache.manager import CacheManager
from yardmaster.engine.build import build_executor
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.decode_graph import DecodeGraphs, capture_sizes
from yardmaster.engine.leader import Leader
from yardmaster.engine.messages import FromEngine, Outputs, RequestOutput, Shutdown, Submit, ToEngine
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.scheduler import Scheduler, SchedulerConfig
from yardmaster.engine.step_clock import StepClock
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.parallel.control import Control
from yardmaster.parallel.mesh import Mesh

VOCAB = 509
SEQS = 5
STOPS = SamplingParams(temperature=0.0, max_tokens=38, min_tokens=6, logit_bias={7: 100.0}, stop_token_ids=(7,))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ahead")
    config = small_gpt_oss(num_layers=3, num_experts=5, expert_width=96, sliding_window=20, vocab_size=VOCAB)
    write_random_checkpoint(directory, config, experts="mxfp4")
    return directory


class Wire:
    """Hands in the requests a few at a time and hears what comes back; says Shutdown when all have ended."""

    def __init__(self, requests: list[Submit], pace: random.Random) -> None:
        self.waiting, self.pace = list(requests), pace
        self.ends = len(requests)
        self.heard: dict[str, list[RequestOutput]] = {}

    def receive(self, timeout_seconds: float) -> list[ToEngine]:
        if not self.ends:
            return [Shutdown()]
        few = self.pace.randint(0, 3) if timeout_seconds == 0.0 else 1
        coming, self.waiting = self.waiting[:few], self.waiting[few:]
        return list(coming)

    def send(self, message: FromEngine) -> None:
        assert isinstance(message, Outputs)
        for output in message.outputs:
            outputs = self.heard.setdefault(output.request_id, [])
            assert not outputs or outputs[-1].finish_reason is None, "an output after the last one"
            outputs.append(output)
            self.ends -= output.finish_reason is not None


def requests(seed: int, long: bool = False) -> list[Submit]:
    """24, of which the first is sure to stop.

    `long`: all want so many tokens, and never stop before, that a small cache must turn some out again.
    """
    rng = random.Random(seed)
    kinds = [
        {"temperature": 0.0},
        {"temperature": 1.0, "top_p": 0.8, "top_k": 50},
        {"temperature": 0.7, "min_p": 0.02},
        {"temperature": 1.0, "presence_penalty": 1.0, "repetition_penalty": 1.3},
        {"temperature": 0.0, "logprobs": 3},
        {"temperature": 1.0, "logit_bias": {7: 5.0, 9: -100.0}, "logprobs": 0},
        {"temperature": 1.0, "min_tokens": 6},
        {"temperature": 1.0, "prompt_logprobs": 2},
    ]
    submits = []
    for i in range(24):
        kind = rng.choice(kinds)
        params = SamplingParams(
            max_tokens=38 if long or "min_tokens" in kind else rng.choice([1, 2, 35, 38]),
            seed=rng.getrandbits(40),
            stop_token_ids=() if long else tuple(rng.choices(range(VOCAB), k=8)),
            ignore_eos=long,
            **kind,
        )
        prompt = rng.choices(range(VOCAB), k=rng.choice([1, 2, 17, 40, 90]))
        submits.append(Submit(request_id=str(i), prompt_token_ids=prompt, params=params, eos_token_ids=(3,)))
    if not long:
        submits[0] = msgspec.structs.replace(submits[0], params=STOPS)
    return submits


def serve(checkpoint, submits: list[Submit], pace: int, *, ahead: int, graphs: list[int], pages: int) -> tuple:
    limits = SchedulerConfig(max_num_seqs=SEQS, max_num_batched_tokens=48, max_model_len=128)
    config = EngineConfig(
        model=str(checkpoint),
        device="cpu",
        max_model_len=128,
        scheduler=limits,
        page_size=4,
        async_scheduling=bool(ahead),
    )
    built = build_executor(config, Mesh.single("cpu"), lambda line: None)
    assert built.ahead == ahead
    runner = built.executor
    groups = tuple(replace(group, num_pages=min(pages, group.num_pages)) for group in built.cache_spec.groups)
    scheduler = Scheduler(limits, CacheManager(replace(built.cache_spec, groups=groups)), ahead=ahead)
    if graphs:
        captured = []

        def capture(run):
            with torch.inference_mode():
                run()  # as a capture does, before any request is there
            captured.append(run)
            return run

        runner.graphs = DecodeGraphs(
            runner.model,
            runner.store,
            runner.builder,
            runner.tp,
            graphs,
            max_model_len=128,
            capture=capture,
            share=ahead > 0,
        )
        assert len(captured) == len(graphs)
    wire = Wire(submits, random.Random(pace))
    Leader(0, scheduler, runner, Control(Mesh.single("cpu")), wire, idle_beat=0.01).run()
    assert not scheduler.has_work
    assert runner.clock.busy_seconds > 0
    return wire.heard, scheduler.stats()


def whole(outputs: list[RequestOutput]) -> tuple:
    tokens = [token for output in outputs for token in output.token_ids]
    return tokens, outputs[-1].finish_reason, outputs[-1].stop_reason


def tokens_of(heard: dict[str, list[RequestOutput]]) -> int:
    return sum(len(whole(outputs)[0]) for outputs in heard.values())


def same(got: list[RequestOutput], want: list[RequestOutput]) -> bool:
    return whole(got) == whole(want) and scores(got) == pytest.approx(scores(want), abs=1e-4)


def scores(outputs: list[RequestOutput]) -> list[float]:
    """All log-probabilities, in order. Ranks and the order of the best are not asked for: rounding may decide them."""
    listed = [one for output in outputs for one in [*(output.logprobs or []), *(output.prompt_logprobs or [])]]
    return [value for one in listed if one for value in (one.token_id, one.logprob, *(best for _, best in one.top))]


@pytest.mark.parametrize(
    ("ahead", "graphs", "pages"),
    [(1, [], 400), (0, [1, 2, 4, 5], 400), (1, [5], 400), (1, [1, 2, 3], 400), (1, [2, 5], 33)],
    ids=["ahead", "captured", "ahead and captured", "larger batches are not captured", "preempted"],
)
def test_the_same_answers(checkpoint, ahead, graphs, pages):
    seed = random.randrange(1 << 30)
    submits = requests(seed, long=pages < 400)
    want, plain = serve(checkpoint, submits, seed, ahead=0, graphs=[], pages=400)
    got, stats = serve(checkpoint, submits, seed + 1, ahead=ahead, graphs=graphs, pages=pages)
    assert (stats.preemptions > 0) == (pages < 400)
    assert len(want) == len(got) == len(submits)
    others = [name for name in want if not same(got[name], want[name])]
    for pace in range(seed + 2, seed + 12):
        if not others:
            break
        # Rounding may decide between two tokens. Plain steps whose prompts are cut otherwise then bring either, too.
        again, _ = serve(checkpoint, submits, pace, ahead=0, graphs=[], pages=pages)
        others = [name for name in others if not same(got[name], again[name])]
    assert not others, f"requests({seed})"
    assert pages < 400 or any(outputs[-1].finish_reason == "stop" for outputs in want.values())
    assert (stats.generation_tokens, plain.generation_tokens) == (tokens_of(got), tokens_of(want))


def test_sizes_to_capture():
    assert capture_sizes(1) == [1]
    assert capture_sizes(3) == [1, 2, 3]
    assert capture_sizes(8) == [1, 2, 4, 8]
    sizes = capture_sizes(512)
    assert sizes[-1] == 512
    assert len(sizes) < 30
    assert all(a < b and (b <= 8 or b - a <= max(8, a / 3)) for a, b in pairwise(sizes))


def test_the_clock_counts_waits_but_not_rests(monkeypatch):
    now = iter([0.0, 1.0, 1.5, 2.5, 9.0, 9.25])
    monkeypatch.setattr("yardmaster.engine.step_clock.time.perf_counter", lambda: next(now))
    clock = StepClock(torch.device("cpu"))
    clock.begin()
    clock.end()
    clock.begin()
    clock.end()
    clock.rest()
    clock.begin()
    clock.end()
    assert (clock.busy_seconds, clock.waited_seconds) == (2.25, 0.5)
