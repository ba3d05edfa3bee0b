"""config.json in both spellings reads as transformers reads it; every absurd field is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.models.config import ModelConfig
from yardmaster.models.hf_config import load_config, parameters
from yardmaster.weights.errors import CheckpointError

YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "rope_type": "yarn",
    "truncate": False,
}
HUB: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "eos_token_id": 200002,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "pad_token_id": 199999,
    "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": YARN,
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
GONE = object()


def write(directory: Path, generation: Any = GONE, **changes: Any) -> Path:
    values = {key: value for key, value in (HUB | changes).items() if value is not GONE}
    (directory / "config.json").write_text(json.dumps(values))
    if generation is not GONE:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def refused(directory: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_config(directory)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1500
    assert "; " in message
    for word in words:
        assert word in message


def test_gpt_oss_20b(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, {"eos_token_id": [200002, 199999, 200012]}))
    assert (config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads) == (24, 2880, 64, 8)
    assert (config.num_experts, config.experts_per_token, config.expert_width) == (32, 4, 2880)
    assert (config.vocab_size, config.max_position, config.sliding_window) == (201088, 131072, 128)
    assert config.eos_token_ids == (200002, 199999, 200012)
    assert config.pad_token_id == 199999
    assert config.quantization == "mxfp4"
    assert config.torch_dtype == "bfloat16"
    assert config.layer_types[:3] == ("sliding_attention", "full_attention", "sliding_attention")
    rope = config.rope
    assert (rope.kind, rope.theta, rope.factor, rope.original_max_position) == ("yarn", 150000.0, 32.0, 4096)
    assert (rope.beta_fast, rope.beta_slow, rope.truncate, rope.attention_factor) == (32.0, 1.0, False, None)
    assert abs(parameters(config) / 20.91e9 - 1) < 0.001


def test_what_transformers_5_writes_reads_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "hub").mkdir()
    hub = write(tmp_path / "hub")
    transformers.GptOssConfig.from_pretrained(hub).save_pretrained(tmp_path / "new")
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert "rope_parameters" in written
    assert "rope_theta" not in written
    assert load_config(tmp_path / "new") == load_config(hub)


def test_a_config_that_transformers_made_of_nothing(tmp_path: Path) -> None:
    """The defaults of the class, written out, are gpt-oss-120b."""
    transformers = pytest.importorskip("transformers")
    transformers.GptOssConfig().save_pretrained(tmp_path)
    config = load_config(tmp_path)
    assert (config.num_layers, config.num_experts) == (36, 128)
    assert (config.rope.kind, config.rope.theta, config.rope.truncate) == ("yarn", 150000.0, False)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_layer_types_alternate_when_missing(tmp_path: Path, layers: int) -> None:
    config = load_config(write(tmp_path, layer_types=GONE, num_hidden_layers=layers))
    assert (
        config.layer_types
        == ("sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention")[:layers]
    )


def test_end_tokens(tmp_path: Path) -> None:
    assert load_config(write(tmp_path)).eos_token_ids == (200002,)
    assert load_config(write(tmp_path, eos_token_id=[5, 6, 5])).eos_token_ids == (5, 6)
    assert load_config(write(tmp_path, eos_token_id=GONE)).eos_token_ids == ()
    assert load_config(write(tmp_path, generation={"eos_token_id": 7})).eos_token_ids == (7,)
    assert load_config(write(tmp_path, generation={"do_sample": True})).eos_token_ids == (200002,)


def test_dtypes(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, dtype="float32")).torch_dtype == "float32"
    assert load_config(write(tmp_path, torch_dtype="float16")).torch_dtype == "float16"


def test_rope_forms(tmp_path: Path) -> None:
    plain = load_config(write(tmp_path, rope_scaling={"rope_type": "default"})).rope
    assert (plain.kind, plain.theta, plain.factor) == ("default", 150000.0, 1.0)
    new = write(
        tmp_path, rope_theta=GONE, rope_scaling=GONE, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    assert load_config(new).rope.theta == 5e5
    old = {key: value for key, value in YARN.items() if key != "rope_type"} | {"type": "yarn"}
    assert load_config(write(tmp_path, rope_scaling=old)) == load_config(write(tmp_path))
    assert load_config(write(tmp_path, rope_scaling=YARN | {"attention_factor": 1.5})).rope.attention_factor == 1.5
    short = {"rope_type": "yarn", "factor": 4}
    rope = load_config(write(tmp_path, rope_scaling=short)).rope
    assert (rope.original_max_position, rope.beta_fast, rope.beta_slow, rope.truncate) == (131072, 32.0, 1.0, True)


@pytest.mark.parametrize(("factor", "mscale", "all_dim"), [(40.0, 1.0, 1.0), (40.0, 0.7, 1.2), (1.0, 0.5, 1.0)])
def test_attention_factor_as_transformers_takes_it(
    tmp_path: Path, factor: float, mscale: float, all_dim: float
) -> None:
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import GptOssConfig

    rope = YARN | {"factor": factor, "mscale": mscale, "mscale_all_dim": all_dim}
    write(tmp_path, rope_scaling=rope)
    _, want = rope_utils.ROPE_INIT_FUNCTIONS["yarn"](GptOssConfig.from_pretrained(tmp_path))
    assert load_config(tmp_path).rope.attention_factor == pytest.approx(want, rel=1e-12)


def test_no_window_without_sliding_layers(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, sliding_window=None, layer_types=["full_attention"] * 24)).num_layers == 24
    refused(write(tmp_path, sliding_window=None), "sliding_window", "is missing")


ABSURD: list[tuple[str, Any]] = [
    *[
        (field, value)
        for field in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "num_local_experts",
            "num_experts_per_tok",
            "intermediate_size",
            "sliding_window",
            "max_position_embeddings",
        )
        for value in (0, -1, 1 << 40, 10**4000, 2.0, 1e308, True, "64", [64], {"a": 1})
    ],
    *[
        (field, GONE)
        for field in (
            "model_type",
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "head_dim",
            "num_local_experts",
            "num_experts_per_tok",
            "intermediate_size",
            "rope_scaling",
            "rope_theta",
        )
    ],
    ("num_experts_per_tok", 33),
    ("num_key_value_heads", 7),
    ("head_dim", 63),
    ("model_type", "llama"),
    ("model_type", 5),
    ("model_type", "gpt_oss\n"),
    ("architectures", ["LlamaForCausalLM"]),
    ("architectures", "GptOssForCausalLM"),
    ("architectures", [3]),
    ("hidden_act", "gelu"),
    ("swiglu_limit", 0),
    ("swiglu_limit", "7"),
    ("swiglu_alpha", -1),
    ("rms_norm_eps", 0),
    ("rms_norm_eps", 1),
    ("rms_norm_eps", -1e-5),
    ("attention_bias", 1),
    ("tie_word_embeddings", "false"),
    ("layer_types", ["full_attention"] * 23),
    ("layer_types", ["chunked_attention"] * 24),
    ("layer_types", "full_attention"),
    ("layer_types", [1] * 24),
    ("layer_types", ["full_attention"] * 5_000),
    ("dtype", "int8"),
    ("torch_dtype", "float8_e4m3fn"),
    ("eos_token_id", 201088),
    ("eos_token_id", -1),
    ("eos_token_id", "x"),
    ("eos_token_id", [True]),
    ("eos_token_id", list(range(1000))),
    ("pad_token_id", 1 << 60),
    ("rope_theta", 0),
    ("rope_theta", "150000"),
    ("rope_theta", 1e30),
    ("rope_scaling", "yarn"),
    ("rope_scaling", {}),
    ("rope_scaling", {"rope_type": "llama3", "factor": 8}),
    ("rope_scaling", {"rope_type": ["yarn"]}),
    ("rope_parameters", {"full_attention": {"rope_type": "default"}}),
    *[
        ("rope_scaling", YARN | {key: value})
        for key, value in {
            "factor": 0,
            "beta_fast": 0.5,
            "beta_slow": -1,
            "truncate": 0,
            "original_max_position_embeddings": 1.5,
            "attention_factor": 0,
            "mscale": -1,
            "partial_rotary_factor": 0.5,
        }.items()
    ],
    ("quantization_config", {"quant_method": "gptq"}),
    ("quantization_config", {}),
    ("quantization_config", "mxfp4"),
]


@pytest.mark.parametrize(("field", "value"), ABSURD)
def test_absurd_values_are_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    text = "4" * 9000 if value == 10**4000 else None
    directory = write(tmp_path, **{field: value if text is None else 0})
    if text is not None:  # more digits than Python itself turns into text
        path = directory / "config.json"
        path.write_text(path.read_text().replace(f'"{field}": 0', f'"{field}": {text}'))
        return refused(directory, "config.json")
    return refused(directory, "config.json", field)


def test_a_model_too_large_to_be_one(tmp_path: Path) -> None:
    refused(write(tmp_path, num_local_experts=8192, intermediate_size=1 << 18, hidden_size=1 << 17), "parameters")


def test_mxfp4_needs_whole_blocks(tmp_path: Path) -> None:
    refused(write(tmp_path, intermediate_size=2881), "mxfp4", "2881")
    assert load_config(write(tmp_path, intermediate_size=2881, quantization_config=GONE)).expert_width == 2881


@pytest.mark.parametrize("value", [{"eos_token_id": 300000}, {"eos_token_id": "x"}, [], 3])
def test_bad_generation_config(tmp_path: Path, value: Any) -> None:
    refused(write(tmp_path, generation=value), "generation_config.json")


@pytest.mark.parametrize(
    "text", ["", " ", "{", "[]", "null", '{"a": 1, "a": 2}', "NaN", '{"a": Infinity}', "[" * 99999]
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_bad_json(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, generation={})
    (tmp_path / name).write_text(text)
    refused(tmp_path, name)


def test_files_that_are_none(tmp_path: Path) -> None:
    refused(tmp_path, "config.json", "does not exist")
    (tmp_path / "config.json").symlink_to("/dev/zero")
    refused(tmp_path, "config.json", "not a regular file")
    (tmp_path / "config.json").unlink()
    write(tmp_path)
    (tmp_path / "generation_config.json").symlink_to("/nowhere")
    refused(tmp_path, "generation_config.json")
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_bytes(b'{"a": "' + b"x" * (2 << 20) + b'"}')
    refused(tmp_path, "longer than")


def test_the_parser_imports_no_torch() -> None:
    code = "import sys, yardmaster.models.hf_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(YARN)), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*HUB, "rope_parameters", "dtype"]), VALUES, max_size=4))
def test_nothing_else_is_raised(tmp_path: Path, changes: dict[str, Any]) -> None:
    message = ""
    try:
        assert isinstance(load_config(write(tmp_path, **changes)), ModelConfig)
    except CheckpointError as e:
        message = str(e)
    assert message.isprintable()
