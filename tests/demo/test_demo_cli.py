"""`python -m yardmaster.demo`, from a config of one's own to a checkpoint that answers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from yardmaster import LLM, SamplingParams
from yardmaster.demo import pictures
from yardmaster.demo.__main__ import app
from yardmaster.demo.checking import right
from yardmaster.demo.tasks.base import Call, Reply, Turn
from yardmaster.demo.tasks.registry import KINDS
from yardmaster.demo.vocabulary import train_tokenizer
from yardmaster.kernels.reference.mxfp4 import unpack

CONFIG = """
vocabulary = 1200
[shape]
layers = 3
hidden = 64
heads = 2
kv_heads = 1
experts = 4
experts_per_token = 2
expert_width = 32
dense_layers = [0]
dense_width = 64
tied = true
[train]
steps = 12
tokens = 300
warm_up = 3
evaluate_every = 6
evaluate_on = 1
save_every = 6
"""


# `train` takes all of the processor, which is not for the tests that come after.
pytestmark = pytest.mark.usefixtures("threads")


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_train_export_draw_serve(tmp_path):
    config, run, out = tmp_path / "c.toml", tmp_path / "run", tmp_path / "checkpoint"
    config.write_text(CONFIG)
    flags = "--config", config, "--folder", run
    trained = _run("train", *flags, "--threads", 1, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "exact" in line] == [6, 12]
    (told, *_) = [line for line in lines if "loss" in line]
    assert len(told["max_over_mean_load"]) == 2  # layers with experts
    assert _run("train", *flags, "--threads", 1).exit_code == 0  # finished: nothing is done again
    assert len((run / "log.jsonl").read_text().splitlines()) == len(lines)
    exported = _run("export", out, *flags)
    assert exported.exit_code == 0, exported.output
    assert _run("export", out, *flags).exit_code == 2  # weights are there already
    with LLM(out, max_model_len=512, kv_cache_memory_bytes=8 << 20, num_cpu_threads=1) as llm:
        (answer,) = llm.chat([[{"role": "user", "content": "Hi"}]], SamplingParams(max_tokens=3, ignore_eos=True))
        assert len(answer.outputs[0].token_ids) == 3
    assert out.joinpath("config.json").exists()


def test_the_mean_of_two_trainings(tmp_path):
    config, first, second = tmp_path / "c.toml", tmp_path / "first", tmp_path / "second"
    config.write_text(f"{CONFIG.replace('steps = 12', 'steps = 2')}learning_rate = 0.1\n")
    train_tokenizer(first / "tokenizer", 1200, 4096, 1, conversations=300)
    shutil.copytree(first / "tokenizer", second / "tokenizer")
    flags = "--config", config, "--bfloat16", "--folder", first
    untrained = _run("export", tmp_path / "out", *flags)
    assert untrained.exit_code == 2
    assert "first has no state.pt" in untrained.output
    assert _run("train", "--config", config, "--folder", first, "--device", "cpu").exit_code == 0
    refusals = {f"{second}=0.25": "second has no state.pt", str(second): "must be FOLDER=SHARE", f"{first}=1": "than 1"}
    for share, said in refusals.items():
        refused = _run("export", tmp_path / "out", *flags, "--average-with", share)
        assert refused.exit_code == 2
        assert said in refused.output
    config.write_text(config.read_text() + "seed = 2\n")
    assert _run("train", "--config", config, "--folder", second, "--device", "cpu").exit_code == 0
    for name, more in {"one": (), "both": ("--average-with", f"{second}=0.25")}.items():
        assert _run("export", tmp_path / name, *flags, *more).exit_code == 0
    assert _run("export", tmp_path / "other", *flags[:-1], second).exit_code == 0
    one, other, both = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other", "both"))
    for name, tensor in both.items():
        expected = 0.75 * one[name].float() + 0.25 * other[name].float()
        assert (tensor.float() - expected).abs().max() <= 2**-7 * expected.abs().max(), name
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_a_training_begins_with_a_checkpoint(tmp_path):
    config, first, second = tmp_path / "c.toml", tmp_path / "first", tmp_path / "second"
    config.write_text(CONFIG.replace("steps = 12", "steps = 1"))
    train_tokenizer(first / "tokenizer", 1200, 4096, 1, conversations=300)
    assert _run("train", "--config", config, "--folder", first, "--threads", 1, "--device", "cpu").exit_code == 0
    assert _run("export", first / "out", "--config", config, "--folder", first).exit_code == 0
    config.write_text(f"{CONFIG.replace('steps = 12', 'steps = 1')}learning_rate = 0.0\nseed = 2\n")
    flags = "--config", config, "--folder", second
    train_tokenizer(second / "tokenizer", 0, 4096, 1, conversations=1)  # of a training that was stopped early
    begun = _run("train", *flags, "--begin-with", first / "out", "--threads", 1, "--device", "cpu")
    assert begun.exit_code == 0, begun.output
    assert _run("export", second / "out", *flags).exit_code == 0
    before, after = (load_file(folder / "out" / "model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if name.endswith("_blocks"):  # -0 may have become 0
            scales = name.replace("_blocks", "_scales")
            assert torch.equal(unpack(tensor, before[scales]), unpack(after[name], after[scales]))
        else:
            assert torch.equal(tensor, after[name])
    assert (first / "out" / "tokenizer.json").read_bytes() == (second / "out" / "tokenizer.json").read_bytes()
    other = "--config", config, "--folder", tmp_path / "third"
    refused = _run("train", *other, "--begin-with", tmp_path / "none", "--device", "cpu")
    assert refused.exit_code == 2
    assert "none/tokenizer.json: No such file" in refused.output
    config.write_text(CONFIG.replace("hidden = 64", "hidden = 96"))
    refused = _run("train", *other, "--begin-with", first / "out", "--device", "cpu")
    assert refused.exit_code == 2
    assert "model.embed_tokens.weight" in refused.output


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    line = {"loss": 1.5, "tokens": 10, "max_over_mean_load": [1.0, 2.0]}
    lines = [line | {"step": 10}, line | {"step": 20, "loss": 0.7}, {"step": 20, "exact": {"sums": [0.1, 0.2, 0.3]}}]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(each) for each in lines))
    drawn = pictures.draw(tmp_path / "log.jsonl", tmp_path / "a")
    assert [path.name for path in drawn] == ["loss.svg", "right.svg", "load.svg"]
    again = pictures.draw(tmp_path / "log.jsonl", tmp_path / "b")
    assert [path.read_bytes() for path in drawn] == [path.read_bytes() for path in again]
    assert "sums" in (tmp_path / "a" / "right.svg").read_text()


def test_count_and_mistakes(tmp_path):
    counted = _run("count")
    assert counted.exit_code == 0
    assert "total" in counted.output
    config = tmp_path / "c.toml"
    config.write_text("[shape]\nlayer = 3\n")
    for command in ("count", "train"):
        refused = _run(command, "--config", config)
        assert refused.exit_code == 2
        assert "shape: layer is unknown" in refused.output
    assert "No such file" in _run("count", "--config", tmp_path / "none.toml").output


def test_what_counts_as_right():
    (sums,) = [kind for kind, _ in KINDS if kind.name == "sums"]
    turn = Turn("What is 1 + 2?", Reply("1 + 2 = 3"))
    assert right(sums, turn, {"content": "1 + 2 = 3"})
    assert not right(sums, turn, {"content": "1 + 2 = 4"})
    assert not right(sums, turn, {"content": None})
    call = Turn("weather?", Reply(call=Call("get_weather", {"city": "Rome", "days": 2})))

    def said(name, arguments, times=1):
        return {"tool_calls": [{"function": {"name": name, "arguments": arguments}}] * times}

    assert right(sums, call, said("get_weather", '{"days": 2, "city": "Rome"}'))
    for wrong in (
        said("get_wind", '{"city": "Rome", "days": 2}'),
        said("get_weather", '{"city": "Rome"}'),
        said("get_weather", '{"city": "Rome", '),
        said("get_weather", '{"city": "Rome", "days": 2}', times=2),
        {"content": "It is warm."},
    ):
        assert not right(sums, call, wrong)
    assert not right(sums, turn, said("get_weather", "{}") | {"content": "1 + 2 = 3"})
