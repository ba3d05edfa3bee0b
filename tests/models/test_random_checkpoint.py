"""A random checkpoint has the hub's layout: transformers loads every tensor of it, and so do we."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from yardmaster.kernels.reference.mxfp4 import unpack
from yardmaster.models.config import RopeConfig
from yardmaster.models.hf_config import load_config
from yardmaster.models.random_checkpoint import small_gpt_oss, tensor_specs, write_random_checkpoint
from yardmaster.weights.checkpoint import Checkpoint
from yardmaster.weights.dummy import fill
from yardmaster.weights.errors import CheckpointError
from yardmaster.weights.load import load
from yardmaster.weights.slot import FLOATS, PACKED, Slot, into

transformers = pytest.importorskip("transformers")

SMALL = small_gpt_oss(
    vocab_size=320, hidden_size=64, num_layers=3, num_heads=6, head_dim=16, num_experts=5, expert_width=32
)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, through our own loader."""
    got = {}
    with Checkpoint(directory) as checkpoint:
        slots = []
        for name in checkpoint:
            info = checkpoint.info(name)
            got[name] = torch.empty(info.shape, dtype=torch.uint8 if info.dtype == "U8" else torch.float32)
            slots.append(Slot(name, info.shape, into(got[name]), dtypes=PACKED if info.dtype == "U8" else FLOATS))
        load(checkpoint, slots)
    return got


@pytest.mark.parametrize("experts", ["bfloat16", "mxfp4"])
def test_transformers_loads_it(tmp_path: Path, experts: str) -> None:
    config = write_random_checkpoint(tmp_path / "m", SMALL, experts=experts, max_shard_bytes=100_000, seed=3)
    assert config == load_config(tmp_path / "m")
    assert config.quantization == ("mxfp4" if experts == "mxfp4" else None)
    ends = {"eos_token_ids": (320 - 17, 320 - 20, 320 - 7), "pad_token_id": 320 - 20}
    assert config == replace(SMALL, quantization=config.quantization, **ends)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1

    model, info = transformers.GptOssForCausalLM.from_pretrained(
        tmp_path / "m", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    theirs = model.state_dict()
    ours = tensors(tmp_path / "m")
    for kind in ("gate_up_proj", "down_proj"):
        for layer in range(3 if experts == "mxfp4" else 0):
            name = f"model.layers.{layer}.mlp.experts.{kind}"
            packed = ours.pop(f"{name}_blocks"), ours.pop(f"{name}_scales")
            ours[name] = unpack(*packed, torch.float32).transpose(1, 2)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where does the grain go?"}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = prompt if isinstance(prompt, torch.Tensor) else prompt["input_ids"]
    undated = tokenizer("Where does the grain go?", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(ids).logits[0]
        more = model.generate(undated, max_new_tokens=16, do_sample=False)[0, undated.shape[1] :]
    assert torch.isfinite(logits).all()
    assert logits.std(-1).min() > 1
    assert logits.argmax(-1).unique().numel() > 20  # not the same token whatever the prompt
    assert more.unique().numel() > 4


@pytest.mark.parametrize("experts", ["bfloat16", "mxfp4"])
def test_dummy_weights_of_the_same_seed_are_the_same(tmp_path: Path, experts: str) -> None:
    write_random_checkpoint(tmp_path / "m", SMALL, experts=experts, seed=11)
    stored = tensors(tmp_path / "m")
    dummy, slots = {}, []
    for spec in tensor_specs(SMALL, "BF16", experts == "mxfp4"):
        dummy[spec.name] = torch.full_like(stored[spec.name], 9)
        packed = PACKED if spec.dtype == "U8" else FLOATS
        slots.append(Slot(spec.name, spec.shape, into(dummy[spec.name]), dtypes=packed))
    fill(slots, seed=11)
    assert dummy.keys() == stored.keys()
    assert all(torch.equal(dummy[name], stored[name]) for name in stored)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, SMALL, seed=seed)
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert (
        a.keys()
        == c.keys()
        == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "generation_config.json",
        }
    )
    assert [name for name in a if a[name] != c[name]] == ["model.safetensors"]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": 1, "experts_per_token": 1, "num_layers": 1},
        {"num_heads": 1, "num_kv_heads": 1, "attention_bias": False},
        {"layer_types": ("full_attention", "full_attention", "sliding_attention")},
        {"tie_word_embeddings": True, "rope": RopeConfig(10000.0)},
        {"rope": RopeConfig(5e5, "yarn", 8.0, 64, 16.0, 2.0, True, 1.25), "sliding_window": 7, "rms_norm_eps": 1e-6},
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_any_dimensions(tmp_path: Path, changes: dict[str, Any], dtype: str) -> None:
    config = replace(SMALL, **changes)
    if "num_layers" in changes:
        config = replace(config, layer_types=config.layer_types[: changes["num_layers"]])
    got = write_random_checkpoint(tmp_path / "m", config, dtype=dtype, experts=dtype)
    assert got == replace(config, torch_dtype=dtype, eos_token_ids=got.eos_token_ids, pad_token_id=got.pad_token_id)
    model, info = transformers.GptOssForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert str(model.dtype) == f"torch.{dtype}"


def test_what_could_not_be_loaded_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="num_key_value_heads"):
        write_random_checkpoint(tmp_path / "m", replace(SMALL, num_kv_heads=4))
    with pytest.raises(CheckpointError, match="mxfp4"):
        write_random_checkpoint(tmp_path / "m", replace(SMALL, expert_width=33), experts="mxfp4")
    with pytest.raises(CheckpointError, match="vocabulary of 100"):
        write_random_checkpoint(tmp_path / "m", replace(SMALL, vocab_size=100))
    with pytest.raises(CheckpointError, match="eos_token_id"):
        write_random_checkpoint(tmp_path / "m", SMALL, tokenizer_vocab=5000)
    with pytest.raises(ValueError, match="dtype must be"):
        write_random_checkpoint(tmp_path / "m", SMALL, dtype="int8")
    with pytest.raises(ValueError, match="experts must be"):
        write_random_checkpoint(tmp_path / "m", SMALL, experts="nvfp4")
    assert not (tmp_path / "m").exists()


def test_config_is_the_hubs_form(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, SMALL, experts="mxfp4", tokenizer_vocab=300)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["GptOssForCausalLM"]
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    assert config["rope_theta"] == 150000.0
    assert config["rope_scaling"]["truncate"] is False
    assert config["eos_token_id"] == 300 - 17
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [283, 280, 293]
