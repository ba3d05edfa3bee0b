"""What programs give to `LLM`: sampling parameters in vLLM's forms, their types, and arguments that are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from yardmaster import LLM, SamplingParams
from yardmaster.engine.sampling_params import NO_LIMIT, params_of, typed
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint

FLAGS: dict[str, Any] = {"device": "cpu", "max_model_len": 256, "kv_cache_memory_bytes": 8 << 20, "max_num_seqs": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("params") / "tiny"
    shape = {"hidden_size": 32, "num_layers": 1, "head_dim": 16, "num_heads": 2, "expert_width": 32, "num_experts": 4}
    write_random_checkpoint(directory, small_gpt_oss(vocab_size=512, **shape))
    return directory


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(checkpoint, trust_remote_code=False, enable_prefix_caching=False, quantization=None, **FLAGS) as model:
        yield model


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"], "bad_words": "no"}, {"stop": ("a", "b"), "bad_words": ("no",)}),
        ({"stop": None, "stop_token_ids": None, "bad_words": None, "logit_bias": None}, {}),
        ({"stop_token_ids": [1, 2]}, {"stop_token_ids": (1, 2)}),
        ({"logit_bias": {"5": 1}}, {"logit_bias": {5: 1.0}}),
        ({"max_tokens": None}, {"max_tokens": NO_LIMIT}),
        ({"temperature": np.float64(0.5), "seed": np.int64(3)}, {"temperature": 0.5, "seed": 3}),
        ({"temperature": 1, "top_k": -1}, {"temperature": 1.0, "top_k": -1}),
    ],
)
def test_vllms_forms(given: dict[str, Any], meant: dict[str, Any]) -> None:
    want = SamplingParams(**meant)
    params = typed(SamplingParams(**given))
    assert params == want
    assert params_of(given) == want
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == want


WRONG = [
    ({"max_tokens": 16.0}, "^max_tokens: "),
    ({"max_tokens": "16"}, "^max_tokens: "),
    ({"logprobs": True}, "^logprobs: "),
    ({"stop_token_ids": 5}, "^stop_token_ids: "),
    ({"stop_token_ids": [1.5]}, r"^stop_token_ids\[0\]: "),
    ({"stop": 5}, "^stop: "),
    ({"stop": [5]}, r"^stop\[0\]: "),
    ({"bad_words": [b"x"]}, r"^bad_words\[0\]: "),
    ({"temperature": "hot"}, "^temperature: "),
    ({"temperature": None}, "^temperature: "),
    ({"logit_bias": {5: "x"}}, "^logit_bias"),
    ({"logit_bias": {"x": 1}}, "^key in logit_bias: "),
    ({"ignore_eos": 1}, "^ignore_eos: "),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_wrong_types_name_the_field(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        typed(SamplingParams(**given))
    with pytest.raises(ValueError, match=words):
        params_of(given)


def test_a_misspelt_parameter_is_named(llm: LLM) -> None:
    with pytest.raises(ValueError, match="no sampling parameter 'temprature'"):
        llm.default_sampling_params(temprature=0)


def test_a_lone_stop_is_one(llm: LLM) -> None:
    whole = llm.generate("hello", SamplingParams(temperature=0, max_tokens=6))[0].outputs[0].text
    stop = whole[2:4]
    output = llm.generate("hello", SamplingParams(temperature=0, max_tokens=6, stop=stop))[0].outputs[0]
    assert output.text == whole[: whole.index(stop)]
    assert output.stop_reason == stop


def test_without_a_limit_an_answer_ends_with_the_context(llm: LLM) -> None:
    for params in (
        SamplingParams(max_tokens=None, ignore_eos=True),
        llm.default_sampling_params(max_tokens=None, ignore_eos=True),
    ):
        output = llm.generate([[5] * 240], params)[0].outputs[0]
        assert (output.finish_reason, len(output.token_ids)) == ("length", 16)


def test_what_would_hang_a_leader_is_refused(llm: LLM) -> None:
    for given in ({"max_tokens": 16.0}, {"logprobs": True}, {"stop_token_ids": 5}):
        with pytest.raises(ValueError, match=next(iter(given))):
            llm.generate("hello", SamplingParams(**given))
        with pytest.raises(ValueError, match=next(iter(given))):
            llm.chat([{"role": "user", "content": "x"}], [SamplingParams(**given)])
    for wrong in ({"max_tokens": 5}, [{"max_tokens": 5}], 7):
        with pytest.raises(ValueError, match="sampling_params must be SamplingParams"):
            llm.generate(["hello"], wrong)


@pytest.mark.parametrize(
    "given",
    [
        {"logit_bias": {512: 1.0}},
        {"stop_token_ids": (3, 1 << 40), "min_tokens": 1},
        {"allowed_token_ids": (512,)},
        {"bad_token_ids": ((1, 2), (3, -1))},
    ],
)
def test_an_id_that_no_token_has_is_refused_and_disturbs_nobody(llm: LLM, given: dict[str, Any]) -> None:
    (field,) = given.keys() - {"min_tokens"}
    with pytest.raises(ValueError, match=rf"^{field}: .* is no token; ids are from 0 to 511$"):
        llm.generate([[1, 2]], SamplingParams(**given), use_tqdm=False)
    (result,) = llm.generate([[1, 2]], SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)
    assert len(result.outputs[0].token_ids) == 2


def test_a_rendered_template_is_warned_of_once(llm: LLM, caplog: pytest.LogCaptureFixture) -> None:
    params = SamplingParams(max_tokens=1)
    llm.generate(["plain", "<start>"], params, use_tqdm=False)
    assert not caplog.records
    llm.generate(["x", "<|start|>user<|message|>hi<|end|>", "<|end|>"], params, use_tqdm=False)
    (record,) = caplog.records
    assert record.getMessage() == "prompts[1] holds <|start|>, which is text there: for a control token give token ids"


def test_results_have_vllms_names(llm: LLM) -> None:
    assert llm.get_tokenizer() is llm.tokenizer
    result = llm.generate("hello", SamplingParams(max_tokens=3, logprobs=0, ignore_eos=True))[0]
    output = result.outputs[0]
    assert result.finished
    assert output.logprobs is not None
    assert output.cumulative_logprob == pytest.approx(sum(entry.logprob for entry in output.logprobs))
    assert llm.generate("hello", SamplingParams(max_tokens=1))[0].outputs[0].cumulative_logprob is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tensor_paralel_size": 2}, "no argument 'tensor_paralel_size'; did you mean 'tensor_parallel_size'"),
        ({"max_model_length": 2}, "did you mean 'max_model_len'"),
        ({"zzz": 1}, "no argument 'zzz'$"),
        ({"parallel": None}, "no argument 'parallel'"),
        ({"trust_remote_code": True}, "--trust-remote-code is no flag here"),
        ({"enable_prefix_caching": True}, "--enable-prefix-caching is no flag here"),
        ({"quantization": "awq"}, "--quantization is no flag here"),
    ],
)
def test_arguments_that_are_none(tmp_path: Path, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LLM(tmp_path, **flags)


def test_a_job_platforms_world_is_none_of_its(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with LLM(checkpoint, **FLAGS) as model:
        assert model.generate("a", SamplingParams(max_tokens=1))[0].outputs
