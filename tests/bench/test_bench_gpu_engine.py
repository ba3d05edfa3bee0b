"""The engine's GPU benchmark, its plans and floors, on a small model and a CPU."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
import torch

from yardmaster.bench import gpu_engine, gpu_served
from yardmaster.bench.gpu_models import MODELS, Model
from yardmaster.models.random_checkpoint import small_gpt_oss
from yardmaster.tests.free_port import free_port


@pytest.mark.parametrize(
    ("name", "batch", "hit", "milliseconds"),
    [
        ("gpt-oss-20b", 1, 4, 1.245),
        ("gpt-oss-20b", 128, 32, 5.41),
        ("gpt-oss-120b", 1, 4, 1.682),
        ("gpt-oss-120b", 128, 125.8, 22.8),
    ],
)
def test_floors_of_decode_steps(name: str, batch: int, hit: float, milliseconds: float) -> None:
    """Worked out apart from this code, for copies of 3.0 TB/s and a context of 1024."""
    assert MODELS[name].decode_bytes(batch, 1024, hit) / 3.0e12 * 1e3 == pytest.approx(milliseconds, rel=0.02)


@pytest.mark.parametrize(("name", "rate"), [("gpt-oss-20b", 127e3), ("gpt-oss-120b", 84e3)])
def test_floors_of_prompts(name: str, rate: float) -> None:
    """Worked out apart from this code, for products of 798 TFLOP/s."""
    assert 2048 / (MODELS[name].prefill_operations(2048) / 798e12) == pytest.approx(rate, rel=0.05)


def test_every_row_on_a_small_model(
    tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engine, "BUDGET", 64)
    config = small_gpt_oss(num_layers=2, vocab_size=600, quantization="mxfp4", sliding_window=20)
    model = Model("tiny", config, {1: (0.5, 0.6)}, (0.3, 0.4))
    engine = gpu_engine.build(model.write(tmp_path), batch=3, device="cpu", say=lambda line: None)
    options = argparse.Namespace(batches=[1, 3, 4], contexts=[40, 1 << 17], prompts=[5, 150], profile=False)
    rows = gpu_engine.measure(model, engine, options, {"copy_gb_per_s": 10.0, "matmul_tflop_per_s": 0.1})
    assert [row["what"] for row in rows] == ["decode 1 at 40", "decode 3 at 40", "prefill 5", "prefill 150"]
    for row in rows:
        assert row["ms"] > 0
        assert row["ratio"] == pytest.approx(row["floor_ms"] / row["ms"], rel=0.05, abs=0.01)
    assert rows[0]["experts_hit"] == 4  # one token, four experts
    assert 4 <= rows[1]["experts_hit"] <= 8
    assert (rows[0]["must"], rows[1]["must"], rows[3]["must"]) == (0.5, None, None)
    printed = capsys.readouterr().out
    assert printed.count("does not fit into the cache") == 4
    for cache in engine.runner.store.keys.values():
        assert torch.isfinite(cache).all()


def test_a_narrower_cache_costs_less() -> None:
    model = MODELS["gpt-oss-20b"]
    dense = replace(model, config=replace(model.config, quantization=None))
    assert (
        model.decode_bytes(8, 1024, 21, kv_bytes=1) < model.decode_bytes(8, 1024, 21) < dense.decode_bytes(8, 1024, 21)
    )


def test_served_rates_are_told_of_the_engines_own() -> None:
    rows = [
        {"what": what, "model": "m", "ms": ms} for what, ms in (("decode 8 at 1024", 4.0), ("decode 8 at 8192", 9.0))
    ]
    own = gpu_served.own_rates({"rows": [*rows, {"what": "prefill 2048", "model": "m", "ms": 1.0}]})
    assert own == {("m", 8): 2000.0}
    row = {"model": "m", "concurrency": 8, "report": {"output_throughput": 1900.0}}
    told = gpu_served.compared(row, own)
    assert (told["of_engine"], told["must"]) == (0.95, 0.92)
    told = gpu_served.compared(row | {"concurrency": 128}, own)
    assert (told["of_engine"], told["must"]) == (None, 0.85)


@pytest.mark.slow
def test_a_server_is_measured(tmp_path) -> None:
    config = small_gpt_oss(num_layers=2, vocab_size=600, quantization="mxfp4")
    folder = Model("tiny", config, {}, (0.3, 0.4)).write(tmp_path)
    rows = list(gpu_served.measure(folder, "tiny", [1, 2], 12, ["--device", "cpu"], free_port()))
    assert [row["concurrency"] for row in rows] == [1, 2]
    assert all(row["report"]["output_tokens"] == 12 * row["report"]["completed"] > 0 for row in rows)
    assert all(row["report"]["failed"] == 0 for row in rows)
