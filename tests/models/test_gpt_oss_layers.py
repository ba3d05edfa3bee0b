"""A loaded checkpoint, whole against transformers, and layer by layer against our own model in float32.

On a GPU in gpt-oss-20b's true shapes, bfloat16 and MXFP4, through every kernel; on a CPU the same code, small.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GptOssForCausalLM, Mxfp4Config

from yardmaster.cache.manager import CacheManager
from yardmaster.engine.build import BuiltEngine, build_executor
from yardmaster.engine.config import EngineConfig
from yardmaster.engine.plan import Share, StepPlan
from yardmaster.engine.scheduler import SchedulerConfig
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.parallel.mesh import Mesh
from yardmaster.tests.models.clear_ids import clear_ids

TRUE = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "num_heads": 64,
    "num_kv_heads": 8,
    "head_dim": 64,
    "num_experts": 32,
    "expert_width": 2880,
}
CASES = [
    pytest.param("cpu", {"sliding_window": 20, "vocab_size": 600}, "float32", 1e-5, id="small"),
    pytest.param("cuda", TRUE, "bfloat16", 3e-2, id="true shapes", marks=pytest.mark.gpu),
]


def engine(path: Path, device: str, dtype: str, expert_dtype: str = "auto") -> BuiltEngine:
    limits = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=512, max_model_len=1024)
    config = EngineConfig(
        model=str(path),
        device=device,
        dtype=dtype,
        expert_dtype=expert_dtype,
        max_model_len=1024,
        scheduler=limits,
        kv_cache_memory_bytes=256 << 20,
        enforce_eager=True,
    )
    return build_executor(config, Mesh.single(device), lambda line: None)


class Steps:
    """One request's steps through an engine, a layer at a time if need be."""

    def __init__(self, built: BuiltEngine) -> None:
        self.runner = built.executor
        self.manager = CacheManager(built.cache_spec)
        self.done = 0

    def lay_out(self, ids: list[int]):
        grants = self.manager.extend("0", self.done, len(ids))
        plan = StepPlan([Share(0, self.done, ids, grants, True)])
        self.done += len(ids)
        return self.runner.builder.build(plan)[0]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> torch.Tensor:
        model = self.runner.model
        return model.logits(model(self.lay_out(ids), self.runner.store)).float().cpu()


@pytest.fixture(scope="module")
def path(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("layers") / "model"
    config = small_gpt_oss(num_layers=4, **request.param)
    write_random_checkpoint(directory, config, experts="mxfp4")
    return directory


@pytest.mark.parametrize(("device", "path", "dtype", "tolerance"), CASES, indirect=["path"])
def test_a_checkpoint_agrees_with_transformers(device: str, path: Path, dtype: str, tolerance: float) -> None:
    built = engine(path, device, dtype)
    oracle = GptOssForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), quantization_config=Mxfp4Config(dequantize=True), device_map=device
    )
    (ids,), (want,) = (drawn.cpu() for drawn in clear_ids(oracle, 1, 400))
    want = want.float()
    steps = Steps(built)
    got = torch.cat(
        [
            steps.logits(part)
            for part in (ids[:1].tolist(), ids[1:300].tolist(), ids[300:399].tolist(), ids[399:].tolist())
        ]
    )
    assert ((got - want).norm() / want.norm()).item() < tolerance


@pytest.mark.parametrize(("device", "path", "dtype", "tolerance"), CASES, indirect=["path"])
def test_each_layer_agrees_with_float32(device: str, path: Path, dtype: str, tolerance: float) -> None:
    """Both get the fast model's states before each layer: errors do not add up, and none hides behind another."""
    fast, plain = Steps(engine(path, device, dtype)), Steps(engine(path, device, "float32", "float32"))
    ids = torch.randint(0, fast.runner.model.config.vocab_size, (400,)).tolist()
    errors = []
    with torch.inference_mode():
        for part in (ids[:333], ids[333:334], ids[334:]):
            inputs = {side: side.lay_out(part) for side in (fast, plain)}
            x_TD = fast.runner.model.embedding(inputs[fast].token_ids_T, fast.runner.model.dtype)
            for layer in range(4):
                out = {}
                for side, step in inputs.items():
                    model, store = side.runner.model, side.runner.store
                    group = next(i for i, g in enumerate(store.spec.groups) if layer in g.layers)
                    rope = model.rope.tables(step.positions_T)
                    cache = store.keys[layer], store.values[layer]
                    x, addend = model.blocks[layer](x_TD.to(model.dtype), None, rope, step, step.groups[group], *cache)
                    out[side] = (x + addend.sum()).float() - x_TD.float()  # what the layer adds
                errors.append(((out[fast] - out[plain]).norm() / out[plain].norm()).item())
                x_TD = x_TD + out[fast].to(x_TD.dtype)
    assert len(errors) == 12
    assert max(errors) < tolerance, errors
