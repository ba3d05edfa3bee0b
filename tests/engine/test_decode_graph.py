"""Captured decode steps against plain ones: the same logits, for every batch size, on whatever device there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from yardmaster.cache.manager import CacheManager
from yardmaster.engine.build import build_executor, graph_sizes
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.decode_graph import DecodeGraphs
from yardmaster.engine.plan import PENDING, Share, StepPlan
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.engine.scheduler import SchedulerConfig
from yardmaster.engine.step import SamplingRow
from yardmaster.engine.warm_gpu import uncounted, warm_gpu
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.parallel.mesh import Mesh

PROMPTS = [3, 40, 17, 90, 1, 64, 5]


@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [("cpu", "float32", 1e-5), pytest.param("cuda", "bfloat16", 2e-2, marks=pytest.mark.gpu)],
)
def test_graphs_give_the_logits_of_plain_steps(tmp_path, device, dtype, tolerance):
    config = small_gpt_oss(
        num_layers=4, num_heads=8, num_kv_heads=2, head_dim=64, hidden_size=256, sliding_window=20, vocab_size=1031
    )
    write_random_checkpoint(tmp_path / "model", config, experts="mxfp4")
    limits = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=512, max_model_len=256)
    engine_config = EngineConfig(
        model=str(tmp_path / "model"),
        device=device,
        dtype=dtype,
        max_model_len=256,
        scheduler=limits,
        kv_cache_memory_bytes=64 << 20,
        async_scheduling=True,
    )
    built = build_executor(engine_config, Mesh.single(device), lambda line: None)
    runner, manager = built.executor, CacheManager(built.cache_spec)

    def capture(run):
        def replay():
            with uncounted(runner, built.counters):  # a graph's replay runs no Python
                return run()

        return replay

    if runner.graphs is None:
        assert device == "cpu"
        with torch.inference_mode():
            runner.graphs = DecodeGraphs(
                runner.model,
                runner.store,
                runner.builder,
                runner.tp,
                [1, 2, 4, 8],
                max_model_len=256,
                capture=capture,
                share=True,
            )
    greedy = SamplingParams(temperature=0.0)
    ids = [torch.randint(0, 1031, (length,)).tolist() for length in PROMPTS]
    for slot, prompt in enumerate(ids):
        share = Share(slot, 0, prompt, manager.extend(str(slot), 0, len(prompt)), True)
        first = runner.launch(StepPlan([share]), [SamplingRow(greedy, prompt, [], 0)]).output().token_ids[0]
        prompt.append(first)

    def plan(slots: list[int], known: bool) -> StepPlan:
        shares = []
        for slot in slots:
            start = len(ids[slot]) - 1
            token = ids[slot][-1] if known else PENDING
            shares.append(Share(slot, start, [token], manager.extend(str(slot), start, 1), True))
        return StepPlan(shares)

    for slots in ([0], [1, 3], [2, 4, 6], [0, 1, 2, 3, 4, 5, 6], [5]):
        with torch.inference_mode():
            step, _ = runner.builder.build(plan(slots, known=True))
            want = runner.model.logits(runner.model(step, runner.store)).float()
            rows = [SamplingRow(greedy, ids[slot], [], 0) for slot in slots]
            again = plan(slots, known=False)  # the same step, whose tokens it finds on the device
            assert runner.graphs.takes(again)
            counted = built.counters.expert_rows
            got = runner.graphs.run(again, rows)
            assert built.counters.expert_rows - counted == len(slots) * config.experts_per_token * 4
            assert got.slots_B.tolist() == slots
            assert ((got.logits_BV.float() - want).norm() / want.norm()).item() < tolerance
            assert not got.broken_B.any()
            assert got.token_ids_B.tolist() == got.logits_BV.float().max(-1).indices.tolist()
        for slot, token in zip(slots, got.token_ids_B.tolist(), strict=True):
            ids[slot].append(token)
    assert not runner.graphs.takes(StepPlan([Share(0, 5, [1, 2], [], True)]))
    assert not runner.graphs.takes(StepPlan([]))


def test_where_there_are_none(monkeypatch):
    config = EngineConfig(model="-")
    assert graph_sizes(config, Mesh.single("cpu"), torch.bfloat16) == []
    monkeypatch.setattr("yardmaster.engine.build.triton_runs_on", lambda device: True)
    assert graph_sizes(config, Mesh.single("cuda"), torch.bfloat16)
    for held in ("float16", "float32"):  # for these plain torch stands in, which asks the host
        assert graph_sizes(replace(config, expert_dtype=held), Mesh.single("cuda"), torch.bfloat16) == []
    assert graph_sizes(config, Mesh.single("cuda"), torch.float16) == []


def test_warming_leaves_no_trace(tmp_path):
    config = small_gpt_oss(num_layers=2, hidden_size=64, vocab_size=301)
    write_random_checkpoint(tmp_path / "model", config)
    limits = SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=12, max_model_len=64)
    engine_config = EngineConfig(model=str(tmp_path / "model"), device="cpu", max_model_len=64, scheduler=limits)
    built = build_executor(engine_config, Mesh.single("cpu"), lambda line: None)
    ran = []
    launch = built.executor.launch
    built.executor.launch = lambda plan, rows: ran.append((plan, rows)) or launch(plan, rows)
    assert warm_gpu(built.executor, built.counters, limits) > 0
    assert built.counters.expert_rows == 0
    assert built.executor.clock.busy_seconds == built.executor.clock.waited_seconds == 0.0
    counts = {tuple(share.count for share in plan.shares) for plan, _ in ran}
    assert {(1,), (1, 1), (1, 1, 1), (2,), (4,), (8,), (1, 7)} <= counts
    edited = {len(rows) for _, rows in ran if all(row.params.edits_logits and row.params.logprobs for row in rows)}
    assert edited == {1, 2}
