"""`yardmaster tune` without a GPU refuses; its parts run here under Triton's interpreter, the whole on a GPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from yardmaster.engine import tune as tuning
from yardmaster.kernels.gpu import timing
from yardmaster.kernels.gpu.experts_plan import Plan, Tile, choose
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.parallel.layout import ParallelConfig

CONFIG = small_gpt_oss(hidden_size=64, expert_width=64, num_experts=4, experts_per_token=2, quantization="mxfp4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CUDA GPU with Triton, and there is none"):
        tuning.tune(tmp_path, ParallelConfig(), 8, lambda *_: None)


@pytest.mark.parametrize("quantization", ["mxfp4", None])
def test_a_wrong_plan_or_one_that_cannot_run_is_never_the_fastest(
    quantization: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_gpt_oss(
        hidden_size=64, expert_width=64, num_experts=4, experts_per_token=2, quantization=quantization
    )
    monkeypatch.setattr(timing, "microseconds", lambda calls, replays: float(len(calls)))
    monkeypatch.setattr(tuning, "ROTATED", 2)
    bench = tuning._Bench(config, ParallelConfig(1, 2), torch.device("cpu"))
    assert (bench.layer.experts, bench.layer.hidden, bench.layer.width) == (2, 64, 64)
    measure = bench.measurer(3)
    plan = choose(bench.layer, 3, 4)
    assert measure(plan) == 2.0
    assert measure(Plan(False, Tile(32, 16, 64, 1, 2), Tile(16, 8, 64, 1, 2))) == 2.0

    run = bench._stores[0].run
    monkeypatch.setattr(bench._stores[0], "run", lambda x, keys: 2 * run(x, keys))
    assert measure(plan) == math.inf

    from triton.runtime.errors import OutOfResources

    def too_much(*_: object) -> torch.Tensor:
        raise OutOfResources(300 << 10, 227 << 10, "shared memory")

    monkeypatch.setattr(bench._stores[0], "run", too_much)
    assert measure(plan) == math.inf


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_whole_run(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "model", CONFIG, experts="mxfp4")
    told: list[str] = []
    path, count = tuning.tune(
        tmp_path / "model", ParallelConfig(), 4, lambda done, total, found: told.append(found), tmp_path / "plans.json"
    )
    assert count == len(told) == 4  # 1, 2, 4, 8 pairs
    content = json.loads(path.read_text())
    assert [plan["pairs"] for plan in content["plans"]] == [1, 2, 4, 8]
