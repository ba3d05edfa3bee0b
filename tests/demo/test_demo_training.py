"""What trains is gpt-oss: loss and every gradient as transformers has them. What is exported is what was trained."""

import itertools
import json
import random
import shutil
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoTokenizer, GptOssForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import load_balancing_loss_func

from yardmaster.demo import training as training_module
from yardmaster.demo.batch import Batch
from yardmaster.demo.config import DEFAULT, DemoConfig, Schedule, Shape
from yardmaster.demo.count import Count
from yardmaster.demo.experts import through_mxfp4
from yardmaster.demo.export import checkpoint_tensors, export
from yardmaster.demo.ranks import Ranks
from yardmaster.demo.sample import NOTHING, Renderer
from yardmaster.demo.tasks.base import Call, Conversation, Reply, Turn
from yardmaster.demo.tasks.mix import Mix
from yardmaster.demo.tasks.registry import KINDS, SIMPLE
from yardmaster.demo.trainee import Trainee
from yardmaster.demo.training import Training, learning_rate
from yardmaster.demo.vocabulary import train_tokenizer
from yardmaster.kernels.device import fastest_dtype
from yardmaster.kernels.reference.mxfp4 import pack, unpack
from yardmaster.server.text.tokenizer import Tokenizer

SCRIPT = Path(__file__).with_name("training_ranks.py")
SHAPE = Shape(
    layers=3,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    experts=6,
    experts_per_token=2,
    expert_width=32,
    sliding_window=24,
)
DAY = date(2026, 3, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    train_tokenizer(folder / "tokenizer", 1200, 4096, 1, conversations=300)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return Renderer(tokenizer)


def _samples(renderer, count, seed=0):
    rng = random.Random(seed)
    return [renderer.render(Mix().draw(rng), rng.choice(("low", "medium", "high")), DAY) for _ in range(count)]


def _text(tokenizer, ids):
    return "".join(tokenizer.decode([i]) if i not in tokenizer.special_ids else f"[{i}]" for i in ids)


@pytest.fixture
def trainee(tokenizer):
    trainee = Trainee(SHAPE.model(tokenizer.vocab_size), 3, torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():  # as bfloat16 stores them, and no zero among them
        for parameter in trainee.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)).copy_(parameter.bfloat16())
    return trainee


def _oracle(trainee, folder, tmp_path, packed=False):
    export(trainee, folder / "tokenizer", tmp_path / "out", packed=packed, aux_loss=0.02)
    return GptOssForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, attn_implementation="eager")


def test_loss_and_gradients_are_those_of_transformers(trainee, renderer, folder, tmp_path):
    samples = _samples(renderer, 5)
    loss, imbalance = trainee.losses(Batch.of(samples, trainee.windows))
    (loss + 0.3 * imbalance).backward()

    oracle = _oracle(trainee, folder, tmp_path).train()
    rows, wanted, routers = [], [], []
    for sample in samples:
        out = oracle(torch.tensor([[*sample.head, *sample.ids]]), output_router_logits=True)
        targets = torch.tensor(sample.targets)
        rows.append(out.logits[0, len(sample.head) :][targets != NOTHING])
        wanted.append(targets[targets != NOTHING])
        routers.append([logits[len(sample.head) :] for logits in out.router_logits])
    expected = F.cross_entropy(torch.cat(rows), torch.cat(wanted))
    layers = [torch.cat(each) for each in zip(*routers, strict=True)]
    balance = torch.stack(
        [load_balancing_loss_func((layer,), SHAPE.experts, SHAPE.experts_per_token) for layer in layers]
    ).mean()
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert torch.allclose(imbalance, balance, rtol=1e-5)
    (expected + 0.3 * balance).backward()

    theirs = dict(oracle.named_parameters())
    with torch.no_grad():  # a gradient has the layout of its weight: turn both into the checkpoint's names
        for parameter in trainee.model.parameters():
            parameter.copy_(parameter.grad)
    compared = 0
    for name, gradient in checkpoint_tensors(trainee, packed=False):
        expected = theirs[name].grad
        assert gradient.shape == expected.shape, name
        assert (gradient - expected).abs().max() <= 2e-4 * expected.abs().max() + 1e-8, name
        compared += 1
    assert compared == len(theirs)


def test_what_packed_training_computes_is_what_the_packed_checkpoint_holds(trainee, renderer, folder, tmp_path):
    trainee.pack_experts()
    batch = Batch.of(_samples(renderer, 3), trainee.windows)
    with torch.no_grad():
        mine = trainee._logits(batch)
    export(trainee, folder / "tokenizer", tmp_path / "packed", packed=True, aux_loss=0.0)
    stored = load_file(tmp_path / "packed" / "model.safetensors")
    for layer, store in enumerate(trainee.stores):
        for name, weight in (("gate_up", store.gate_up), ("down", store.down)):
            prefix = f"model.layers.{layer}.mlp.experts.{name}_proj"
            values = unpack(stored[f"{prefix}_blocks"], stored[f"{prefix}_scales"], torch.float32)
            assert torch.equal(values, through_mxfp4(weight).detach())
    for store in trainee.stores:
        store.packed = False
        with torch.no_grad():
            for weight in (store.gate_up, store.down):
                weight.copy_(unpack(*pack(weight), torch.float32))
    with torch.no_grad():
        assert torch.allclose(mine, trainee._logits(batch), atol=1e-5)


@pytest.mark.parametrize("has", ["_is_avx512_bf16_supported", "_is_amx_tile_supported", None])
def test_products_are_in_the_dtype_that_the_device_has_instructions_for(monkeypatch, has):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == has)
    assert fastest_dtype(torch.device("cpu")) == (torch.bfloat16 if has else torch.float32)
    assert fastest_dtype(torch.device("cuda")) == torch.bfloat16
    assert Trainee(SHAPE.model(600), 3).dtype == fastest_dtype(torch.device("cpu"))


def test_training_in_bfloat16_is_near_that_in_float32(tokenizer, renderer):
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        trainee = Trainee(SHAPE.model(tokenizer.vocab_size), 3, dtype)
        loss, imbalance = trainee.losses(Batch.of(_samples(renderer, 4), trainee.windows))
        (loss + imbalance).backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in trainee.model.parameters()])
        found.append((loss.item(), gradients))
    (wide, exact), (narrow, near) = found
    assert abs(wide - narrow) < 0.02 * wide
    assert F.cosine_similarity(exact, near, 0) > 0.98


def test_targets_are_what_is_to_be_said(renderer, tokenizer):
    thoughts = {"medium": "thinking", "high": "thinking hard"}
    turns = (
        Turn("one?", Reply("first", thoughts)),
        Turn("two?", Reply("second")),
        Turn("three?", Reply("third", thoughts)),
    )
    sample = renderer.render(Conversation("x", turns), "medium", DAY)
    said = ["" if span is None else _text(tokenizer, sample.targets[span[0] : span[1] + 1]) for span in sample.spans]
    names = {text: f"[{id_}]" for text, id_ in tokenizer.special_texts.items()}
    start, channel, message = names["<|start|>"], names["<|channel|>"], names["<|message|>"]
    final = f"{channel}final{message}"
    assert said[0] == ""  # its thoughts are no longer in the prompt: nothing would say why it was not to think
    assert said[1] == f"{final}second{names['<|return|>']}"
    opening = f"{channel}analysis{message}thinking{names['<|end|>']}{start}assistant"
    assert said[2] == f"{opening}{final}third{names['<|return|>']}"
    for place, target in enumerate(sample.targets[:-1]):
        ended = target == tokenizer.special_texts["<|return|>"]
        assert target in (NOTHING, sample.ids[place + 1]) or ended


def test_calls_are_taught_with_their_results(renderer, tokenizer):
    call = Reply(call=Call("get_weather", {"city": "Rome"}), thoughts={"high": "why"})
    turns = Turn("weather?", call), Turn('{"sky": "blue"}', Reply("It is blue."), "tool")
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": schema}}
    sample = renderer.render(Conversation("x", turns, (tool,)), "high", DAY)
    first, second = (_text(tokenizer, sample.targets[a : b + 1]) for a, b in sample.spans)
    assert "why" in first
    assert "functions.get_weather" in first
    assert '{"city": "Rome"}' in first
    assert first.endswith(f"[{tokenizer.special_texts['<|call|>']}]")
    assert second.endswith(f"It is blue.[{tokenizer.special_texts['<|return|>']}]")


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_goes_on_where_it_stopped(folder, tmp_path, threads, count):
    threads(count)
    schedule = Schedule(steps=6, tokens=300, warm_up=2, evaluate_every=4, evaluate_on=1, save_every=3, mxfp4_from=0.6)
    runs = []
    for name, steps in (("whole", (6,)), ("halves", (3, 6))):
        shutil.copytree(folder / "tokenizer", tmp_path / name / "tokenizer")
        for until in steps:
            training = Training(DemoConfig(SHAPE, schedule, 1200), tmp_path / name)
            while training.step < until:
                line = training._train_one()
                training.step += 1
            training._save()
        runs.append((line["loss"], torch.cat([p.detach().flatten() for p in training.trainee.model.parameters()])))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_the_log_of_steps_that_come_again_is_forgotten(folder, tmp_path):
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    config = DemoConfig(SHAPE, Schedule(steps=3, tokens=300, evaluate_every=9, evaluate_on=1, save_every=9), 1200)
    training = Training(config, tmp_path)
    training.step = 2
    training._save()
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "exact": {}}\n{"step": 3, "loss": 2.0}\n')
    lines = []
    Training(config, tmp_path).run(lines.append)
    assert [line["step"] for line in lines if "loss" in line] == [3]
    assert [json.loads(line) for line in log.read_text().splitlines()][:2] == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "exact": {}},
    ]
    assert log.read_text().count('"step": 3, "of": 3') == 1


def test_minutes_make_a_schedule_shorter(folder, tmp_path, monkeypatch):
    """By a clock that gives every step a second: forty seconds are forty steps, whenever the run was stopped."""
    monkeypatch.setattr(training_module, "LOOK", 4)
    monkeypatch.setattr(training_module, "time", SimpleNamespace(monotonic=partial(next, itertools.count())))
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    schedule = Schedule(steps=1000, tokens=60, warm_up=2, evaluate_every=2000, evaluate_on=1, save_every=10)
    config, lines = DemoConfig(SHAPE, schedule, 1200), []

    def stop(line):
        lines.append(line)
        if line["step"] == 20:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Training(config, tmp_path).run(stop, minutes=40 / 60)
    Training(config, tmp_path).run(lines.append, minutes=1000)  # state.pt is of step 10, and knows how many there are
    told = [(line["step"], line["of"]) for line in lines if "loss" in line]
    assert told == [(10, 40), (20, 40), (20, 40), (30, 40), (40, 40)]
    assert lines[-2]["learning_rate"] == pytest.approx(schedule.learning_rate * schedule.least_rate, rel=0.3)
    assert "exact" in lines[-1]

    shutil.copytree(folder / "tokenizer", tmp_path / "short" / "tokenizer")
    short = Training(replace(config, train=replace(schedule, steps=6)), tmp_path / "short")
    short.run(lines.append, minutes=1000)
    assert short.step == 6


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_train_together_step_as_one_does(ranks, folder, tmp_path, size):
    alone, together = (
        ranks(SCRIPT, count, DEMO_FOLDER=str(folder), DEMO_OUT=str(tmp_path / str(count))) for count in (1, size)
    )
    for lines in together:
        for line, wanted in zip(lines, alone[0], strict=True):
            assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
            assert line["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-3)
            assert line["max_over_mean_load"] == wanted["max_over_mean_load"]
            assert line["tokens"] == wanted["tokens"]
            assert line["router_loss"] == pytest.approx(wanted["router_loss"], rel=0.05)  # of each rank's own tokens
    wanted = load_file(tmp_path / "1" / "0.safetensors")
    every = [load_file(tmp_path / str(size) / f"{rank}.safetensors") for rank in range(size)]
    for name, moment in wanted.items():
        assert torch.allclose(every[0][name], moment, rtol=1e-3, atol=1e-5 * moment.abs().max().item() + 1e-12), name
        assert all(torch.equal(each[name], every[0][name]) for each in every)


def test_more_ranks_than_conversations_are_refused(folder, tmp_path):
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    training = Training(DemoConfig(SHAPE, Schedule(steps=1, tokens=1), 1200), tmp_path)
    training.ranks = Ranks(0, 2)
    with pytest.raises(ValueError, match="1 conversations for 2 ranks: raise tokens"):
        training._train_one()


def test_training_lowers_the_loss_and_tells(folder, tmp_path):
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    schedule = Schedule(steps=60, tokens=400, warm_up=5, evaluate_every=60, evaluate_on=2, save_every=60)
    lines = []
    Training(DemoConfig(SHAPE, schedule, 1200), tmp_path).run(lines.append)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    (checked,) = [line["exact"] for line in lines if "exact" in line]
    assert all(0 <= share <= 1 for shares in checked.values() for share in shares)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(lines)


def test_learning_rate():
    schedule = Schedule(steps=100, warm_up=10, learning_rate=1.0, least_rate=0.1)
    rates = [learning_rate(schedule, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == max(rates[5:15])
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, rel=0.05)


def test_count_is_that_of_the_model(trainee, folder, tmp_path):
    config = trainee.config
    counted = Count.of(config)
    assert counted.total == sum(parameter.numel() for parameter in trainee.model.parameters())
    export(trainee, folder / "tokenizer", tmp_path / "out", packed=True, aux_loss=0.0)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert counted.packed_bytes <= size <= counted.packed_bytes + 20_000


def test_the_tokenizer_keeps_letters_and_numbers_apart(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.tokenize("What is 417?") == ["What", "Ġis", "Ġ", "4", "1", "7", "?"]
    assert tokenizer.tokenize(" xylotomy") == ["Ġ", *"xylotomy"]
    text = "Überraschung 日本 <|start|> \n\t x  y"
    assert tokenizer.decode(tokenizer.encode(text, split_special_tokens=True)) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("word = 3", "word is unknown"),
        ("vocabulary = 1.5", "vocabulary must be int"),
        ("[shape]\nlayers = 'six'", "layers must be int"),
        ("[train]\nsteps = true", "steps must be int"),
        ("shape = 3", "shape must be a table"),
        ("vocabulary = ", "Invalid value"),
        ("mix = 3", "mix must be a table"),
        ("[mix]\nsum = 3", "mix: sum is unknown; known are sums, differences"),
        ("[mix]\nsums = -1", "mix: sums must be a number from 0 on"),
        ("[mix]\nsums = inf", "mix: sums must be a number from 0 on"),
        ("[mix]\nsums = true", "mix: sums must be a number, got True"),
        ("[mix]\n" + "\n".join(f"{kind.name} = 0" for kind, _ in SIMPLE), "beyond one must have a weight above 0"),
    ],
)
def test_a_wrong_config_is_refused_by_name(tmp_path, text, named):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=named):
        DemoConfig.read(path)


def test_a_mix_draws_what_it_is_told(tmp_path):
    names = [kind.name for kind, _ in KINDS]
    path = tmp_path / "c.toml"
    path.write_text("[mix]\n" + "\n".join(f"{name} = {int(name == 'spell')}" for name in names))
    rng, told = random.Random(), Mix(DemoConfig.read(path).mix)
    assert {told.draw(rng).kind for _ in range(99)} == {"spell", "mix"}
    usual = [Mix({"tools": 0.0}).draw(rng) for _ in range(999)]
    assert {"sums", "memory"} <= {each.kind for each in usual}
    assert not any(each.tools for each in usual)


def test_the_default_config_is_the_default():
    assert DemoConfig.read(DEFAULT) == DemoConfig()
