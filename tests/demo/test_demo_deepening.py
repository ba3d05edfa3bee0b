"""A checkpoint of fewer layers to begin with: the deeper model says at first what the checkpoint says, and learns."""

import random
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import torch

import yardmaster.demo
from yardmaster.demo.batch import Batch
from yardmaster.demo.config import DEFAULT, DemoConfig, Shape
from yardmaster.demo.deepening import sources
from yardmaster.demo.export import export
from yardmaster.demo.sample import Renderer
from yardmaster.demo.tasks.mix import Mix
from yardmaster.demo.trainee import Trainee
from yardmaster.models.hf_config import load_config
from yardmaster.server.text.tokenizer import Tokenizer

EMBEDDED = Path(yardmaster.demo.__path__[0]) / "checkpoint"
FULL = ("full_attention",)
SHALLOW = Shape(layers=3, attention=FULL, hidden=64, head_dim=16, experts=6, experts_per_token=2, expert_width=32)
TURNS = ("sliding_attention", "full_attention")


def _trainee(shape, seed):
    trainee = Trainee(shape.model(Tokenizer(EMBEDDED).vocab_size), seed, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # as bfloat16 stores them, and no zero among them
        for parameter in trainee.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator)).copy_(parameter.bfloat16())
    return trainee


@pytest.fixture
def batch():
    renderer, rng = Renderer(Tokenizer(EMBEDDED)), random.Random(5)
    return lambda trainee: Batch.of(
        [renderer.render(Mix().draw(rng), "medium", date(2026, 3, 4)) for _ in range(3)], trainee.windows
    )


@pytest.mark.parametrize(
    ("layers", "deeper", "attention", "dense"),
    [(3, 4, TURNS[:1], ()), (3, 6, TURNS[1:], ()), (2, 4, TURNS, ()), (6, 8, TURNS, ()), (4, 6, TURNS, (0,))],
)
def test_added_layers_add_nothing_until_they_learn(batch, tmp_path, layers, deeper, attention, dense):
    shape = replace(SHALLOW, layers=layers, attention=attention, dense_layers=dense, dense_width=64 if dense else 0)
    before, after = _trainee(shape, 3), _trainee(replace(shape, layers=deeper), 4)
    export(before, EMBEDDED, tmp_path / "out", packed=False, aux_loss=0.0)
    asked = batch(after)
    after.begin_with(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(before._logits(asked), after._logits(asked))
    loss, _ = after.losses(asked)
    loss.backward()
    for block in after.model.blocks:
        assert block.attention.o.weight.grad.abs().max() > 0
    silent = [i for i, block in enumerate(after.model.blocks) if not block.attention.o.weight.any()]
    assert silent == list(range(deeper // 2, deeper // 2 + deeper - layers))


def test_what_cannot_grow_is_refused(tmp_path):
    before = _trainee(SHALLOW, 3)
    export(before, EMBEDDED, tmp_path / "out", packed=True, aux_loss=0.0)
    for change in ({"layers": 7}, {"layers": 4, "attention": TURNS}, {"layers": 5, "dense_layers": (3,)}):
        after = _trainee(replace(SHALLOW, **{"dense_width": 64} | change), 4)
        with pytest.raises(ValueError, match=rf"3 layers cannot grow to {change['layers']}: "):
            after.begin_with(tmp_path / "out")


def test_the_embedded_model_is_a_deeper_default():
    first, then = DemoConfig.read(DEFAULT), DemoConfig.read(DEFAULT.with_name("deeper.toml"))
    assert then.vocabulary == first.vocabulary
    assert replace(first.shape, layers=then.shape.layers) == then.shape
    kinds = [[shape.attention[i % 2] for i in range(shape.layers)] for shape in (first.shape, then.shape)]
    assert len(sources(*kinds)) == then.shape.layers
    stored = load_config(EMBEDDED)
    told = {name: getattr(stored, name) for name in ("quantization", "eos_token_ids", "pad_token_id")}
    assert replace(then.shape.model(stored.vocab_size), **told) == stored


def test_layers_are_added_in_the_middle():
    assert sources("sfsfsf", "sfsfsfsf") == [0, 1, 2, 3, 2, 3, 4, 5]
    assert sources("ff", "fff") == [0, 0, 1]
