"""How other people's engines are called and timed: those that are here on a small model, else stand-ins."""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from yardmaster.bench import peers_engines, peers_model, peers_task
from yardmaster.bench.absent import Absent
from yardmaster.bench.gpu_models import Model
from yardmaster.bench.peers_engines import ENGINES, Setting
from yardmaster.bench.peers_model import ask, table
from yardmaster.bench.peers_task import Task, Times, by_stamps
from yardmaster.models.random_checkpoint import small_gpt_oss

CONFIG = small_gpt_oss(num_layers=2, vocab_size=600, quantization="mxfp4", sliding_window=20)
TINY = Model("tiny", CONFIG, {}, (0.3, 0.4))
TASKS = {"decode 2 at 40": Task(2, 40, 3), "prefill 70": Task(1, 70, 2)}


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("vllm", "sglang", "gpt_oss"):
        monkeypatch.setitem(sys.modules, module, None)


class Clock:
    """Goes on only when somebody sleeps."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (peers_engines, peers_task):
        monkeypatch.setattr(module, "time", made)
    return made


def module(name: str, **names: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    return made


def asked(engine: str, tasks: dict[str, Task] = TASKS) -> dict[str, dict]:
    return {row["what"]: row for row in ask(engine, TINY, tasks, "cpu")}


def test_transformers_runs_all_requests_together() -> None:
    (row,) = asked("transformers", {"decode 2 at 40": Task(2, 40, 4)}).values()
    assert "said" not in row, row
    assert row["tokens_per_s"] == pytest.approx(2e3 / row["ms"], rel=0.01)
    assert row["ms"] > 0


def test_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_task, "ROUNDS", 1)
    (row,) = asked("yardmaster", {"prefill 30": Task(1, 30, 2)}).values()
    assert row["ms"] > 0, row


@pytest.mark.parametrize(("engine", "missing"), [("vLLM", "vllm"), ("SGLang", "sglang"), ("openai/gpt-oss", "gpt_oss")])
def test_what_is_not_here_is_absent_with_a_reason(engine: str, missing: str) -> None:
    (row,) = asked(engine).values()
    assert row["what"] == "start"
    assert row["said"].startswith("absent (")
    assert missing in row["said"]


class FakeVllm:
    """Takes 30 ms for a prompt's step and 10 ms for each after it; keeps what it was asked."""

    def __init__(self, *, model, load_format, skip_tokenizer_init, enable_prefix_caching, **limits) -> None:
        assert (load_format, skip_tokenizer_init, enable_prefix_caching) == ("dummy", True, False)
        assert limits == {"max_num_seqs": 2, "max_model_len": 72, "max_num_batched_tokens": 8192}
        assert (Path(model) / "config.json").is_file()
        self.seen: set[tuple[int, ...]] = set()

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert not use_tqdm
        assert (sampling_params.temperature, sampling_params.ignore_eos) == (0.0, True)
        assert not sampling_params.detokenize
        ids = {tuple(prompt["prompt_token_ids"]) for prompt in prompts}
        assert not ids & self.seen, "a prompt is asked twice: it may be cached"
        assert len(ids) == len(prompts)
        assert all(0 <= token < 600 for prompt in ids for token in prompt)
        self.seen |= ids
        count = sampling_params.max_tokens
        peers_engines.time.sleep(0.03 + 0.01 * (count - 1))
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=range(count))]) for _ in prompts]


def test_vllm_is_timed_by_the_difference(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", module("vllm", LLM=FakeVllm, SamplingParams=SimpleNamespace))
    rows = asked("vLLM", {"decode 2 at 40": Task(2, 40, 11), "prefill 70": Task(1, 70, 2)})
    assert (rows["decode 2 at 40"]["ms"], rows["decode 2 at 40"]["tokens_per_s"]) == (10, 200)
    assert (rows["prefill 70"]["ms"], rows["prefill 70"]["tokens_per_s"]) == (30, 2333.3)


def test_sglang(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Engine:
        def __init__(self, *, model_path, load_format, disable_radix_cache, **limits) -> None:
            assert (load_format, disable_radix_cache) == ("dummy", True)
            assert (limits["context_length"], limits["max_running_requests"]) == (72, 2)
            made.append(self)
            self.running = True

        def generate(self, *, input_ids, sampling_params):
            assert sampling_params["ignore_eos"]
            count = sampling_params["max_new_tokens"]
            clock.sleep(0.005 * count)
            return [{"output_ids": [1] * count} for _ in input_ids]

        def shutdown(self) -> None:
            self.running = False

    monkeypatch.setitem(sys.modules, "sglang", module("sglang", Engine=Engine))
    rows = asked("SGLang")
    assert [row["ms"] for row in rows.values()] == [5, 5]
    assert not made[0].running


class Packed(SimpleNamespace):
    """A tensor of triton_kernels: its bytes are at `.storage.data`."""


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.Module()
        self.norm.scale = torch.nn.Parameter(torch.ones(4))
        self.gate = torch.nn.Parameter(torch.full((4, 3), torch.nan))
        self.mlp1_weight_tensor = Packed(storage=SimpleNamespace(data=torch.zeros(50, dtype=torch.uint8)))
        self.mlp1_weight = torch.nn.Parameter(self.mlp1_weight_tensor.storage.data, requires_grad=False)
        self.mlp1_weight_mx = Packed(storage=SimpleNamespace(data=torch.zeros(50, dtype=torch.uint8)))


@dataclass
class TheirConfig:
    num_hidden_layers: int
    num_experts: int
    experts_per_token: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    head_dim: int
    num_attention_heads: int
    num_key_value_heads: int
    sliding_window: int


class Transformer(torch.nn.Module):
    def __init__(self, config: TheirConfig, device: torch.device) -> None:
        super().__init__()
        assert (config.num_hidden_layers, config.num_experts, config.vocab_size) == (2, 8, 600)
        self.block = torch.nn.ModuleList([Block()])

    @staticmethod
    def from_checkpoint(path, config=None, device="cuda"):
        raise AssertionError("there is no checkpoint to read")


class TokenGenerator:
    short = 0

    def __init__(self, checkpoint: str, context: int, device: torch.device) -> None:
        self.model, self.context = theirs.Transformer.from_checkpoint(checkpoint, device=device), context
        block = self.model.block[0]
        assert block.norm.scale.eq(1).all()
        assert block.gate.isfinite().all()
        assert len(block.mlp1_weight_tensor.storage.data.unique()) > 10  # the very bytes that the kernels read
        assert set(block.mlp1_weight_mx.storage.data.tolist()) <= set(range(117, 122))

    def generate(self, prompt_tokens, stop_tokens=None, temperature=1.0, max_tokens=0, return_logprobs=False):
        assert temperature == 0
        assert len(prompt_tokens) + max_tokens <= self.context == 128
        peers_engines.time.sleep(0.03)
        for _ in range(max_tokens - self.short):
            peers_engines.time.sleep(0.01)
            yield torch.tensor(5)


theirs = module("gpt_oss.triton.model", ModelConfig=TheirConfig, Transformer=Transformer, TokenGenerator=TokenGenerator)


@pytest.fixture
def gpt_oss(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpt_oss", module("gpt_oss"))
    monkeypatch.setitem(sys.modules, "gpt_oss.triton", module("gpt_oss.triton", model=theirs))
    monkeypatch.setitem(sys.modules, "gpt_oss.triton.model", theirs)


def test_gpt_oss_takes_one_request(gpt_oss) -> None:
    rows = asked("openai/gpt-oss", {**TASKS, "decode 1 at 40": Task(1, 40, 6)})
    assert rows["decode 2 at 40"]["said"] == "absent (it takes one request at a time)"
    assert (rows["decode 1 at 40"]["ms"], rows["prefill 70"]["ms"]) == (10, 40)


def test_a_short_answer_is_no_fast_one(gpt_oss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenGenerator, "short", 1)
    row = asked("openai/gpt-oss", {"decode 1 at 40": Task(1, 40, 6)})["decode 1 at 40"]
    assert row["said"] == "failed (RuntimeError: asked for 1 answers of 4 tokens, it gave [3])"


def test_steps_count_while_all_requests_run() -> None:
    """Three requests that begin and end one after the other: between 4 and 7 there are 3 + 3 + 3 tokens."""
    stamps = [[2.0, 3, 4, 5, 6, 7], [3.0, 4, 5, 6, 7, 8], [4.0, 5, 6, 7, 8, 9]]
    assert by_stamps(1.5, stamps) == Times(2.5, 1.0)
    with pytest.raises(RuntimeError, match="one after the other"):
        by_stamps(0.0, [[1.0, 2.0], [3.0, 4.0]])


def test_a_task_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []

    @contextmanager
    def engine(setting: Setting):
        def run(task: Task) -> Times:
            if task.batch == 2:
                raise ValueError("not\nso many")
            return Times(0.5, -0.1 if task.prompt == 7 else 0.25)

        try:
            yield run
        finally:
            left.append(setting.folder)

    monkeypatch.setitem(ENGINES, "theirs", engine)
    rows = asked(
        "theirs", {"decode 2 at 9": Task(2, 9, 3), "decode 1 at 7": Task(1, 7, 3), "prefill 70": Task(1, 70, 2)}
    )
    assert rows["decode 2 at 9"]["said"] == "failed (ValueError: not so many)"
    assert "vary" in rows["decode 1 at 7"]["said"]
    assert (rows["prefill 70"]["ms"], rows["prefill 70"]["tokens_per_s"]) == (500, 140)
    assert not left[0].exists()


def test_the_table_sets_each_beside_ours() -> None:
    rows = [
        {"engine": "yardmaster", "model": "m", "what": "decode 1 at 9", "ms": 4.0, "tokens_per_s": 250.0},
        {"engine": "yardmaster", "model": "m", "what": "prefill 70", "ms": 4.0, "tokens_per_s": 17500.0},
        {"engine": "vLLM", "model": "m", "what": "decode 1 at 9", "ms": 5.0, "tokens_per_s": 200.0},
        {"engine": "SGLang", "model": "m", "what": "start", "said": "absent (No module named 'sglang')"},
    ]
    lines = table(rows)
    assert lines[1].split() == ["m", "decode", "1", "at", "9", "yardmaster", "4.00", "250", "1.00"]
    assert lines[2].split() == ["m", "decode", "1", "at", "9", "vLLM", "5.00", "200", "0.80"]
    assert lines[3].split()[-3:] == ["4.00", "17,500", "1.00"]
    assert lines[4].endswith("SGLang           absent (No module named 'sglang')")


@pytest.mark.parametrize(
    ("end", "seconds", "said"),
    [
        ("os.abort()", 60, "failed (it ended with status -6)"),
        ("time.sleep(99)", 2, "failed (it was not done after 2 s)"),
    ],
)
def test_an_engine_that_dies_leaves_what_it_has_told(
    end: str, seconds: float, said: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"engine": "vLLM", "model": "m", "what": "prefill 70", "ms": 4.0, "tokens_per_s": 17500.0}
    script = tmp_path / "python"
    lines = ["import json, os, sys, time", f"print(json.dumps({row}), file=open(sys.argv[-1], 'a'))", end]
    script.write_text("\n".join((f"#!{sys.executable} -IS", *lines)))
    script.chmod(0o755)
    monkeypatch.setattr(peers_model.sys, "executable", str(script))
    options = argparse.Namespace(batches=[1], contexts=[], prompts=[70], seconds=seconds)
    rows = peers_model.apart("vLLM", "m", options)
    assert rows == [row, {"engine": "vLLM", "model": "m", "what": "end", "said": said}]


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["peers_model", "--batches", "4", "--prompts", "100"])
    options = peers_model._options()
    assert peers_model._tasks(options) == {"decode 4 at 1024": Task(4, 1024, 128), "prefill 100": Task(1, 100, 2)}
    assert "yardmaster" not in options.engines
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="needs a CUDA device"):
            peers_model.main()
    monkeypatch.setattr(sys, "argv", ["peers_model", "--batches", "--prompts"])
    with pytest.raises(SystemExit):
        peers_model._options()


def test_what_does_not_fit_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 2000))
    with pytest.raises(Absent, match="GiB in bfloat16"), ENGINES["transformers"](Setting(TINY, tmp_path, 1, 9)):
        pass
