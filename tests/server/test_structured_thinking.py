"""Forms and forced calls by the real engine, of a model that thinks between markers and calls as Hermes does.

Its weights are random: what it says is chance, within the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from yardmaster import LLM, SamplingParams, StructuredOutputsParams
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint

HELLO = [{"role": "user", "content": "hello"}]
THING = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 12}},
    "required": ["n"],
    "additionalProperties": False,
}
FUNCTION = {"type": "function", "function": {"name": "look_up", "parameters": THING, "strict": True}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "maxProperties": 0}}}
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
TEMPLATE = """{%- for message in messages %}<|user|>{{ message.content }}{% endfor %}<|assistant|>
{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}
{%- if always %}<think>\n{% endif %}{# </think> <tool_call> #}"""
CASES = 6


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    directory: Path = tmp_path_factory.mktemp("thinking") / "tiny"
    shape = {"hidden_size": 32, "num_layers": 2, "head_dim": 16, "num_heads": 4, "expert_width": 32, "num_experts": 4}
    write_random_checkpoint(directory, small_gpt_oss(vocab_size=512, **shape))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({character: at for at, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<|end|>", "<|user|>", "<|assistant|>")])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])  # as Qwen3 has them
    backend.save(str(directory / "tokenizer.json"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"eos_token_id": backend.token_to_id("<|end|>")}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": backend.token_to_id("<|end|>")}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    flags: dict[str, Any] = {
        "device": "cpu", "max_model_len": 512, "kv_cache_memory_bytes": 4 << 20, "max_num_seqs": 32,
    }  # fmt: skip
    with LLM(directory, **flags) as model:
        yield model


def asked(llm: LLM, **fields: Any) -> list[SamplingParams]:
    """Helped to come to an end."""
    helped = {llm.tokenizer.encode_trusted(text)[0]: 100.0 for text in ("</think>", "</tool_call>", "<|end|>")}
    return [
        SamplingParams(max_tokens=200, seed=seed, temperature=20.0, logit_bias=helped, **fields)
        for seed in range(CASES)
    ]


@pytest.mark.parametrize(
    ("variables", "thoughts"), [({"always": True}, True), ({"enable_thinking": False}, False), ({}, None)]
)
def test_a_form_behind_reasoning(llm: LLM, variables: dict[str, Any], thoughts: bool | None) -> None:
    params = asked(llm, structured_outputs=StructuredOutputsParams(json=THING))
    results = llm.chat([HELLO] * CASES, params, use_tqdm=False, chat_template_kwargs=variables)
    ended = [result.outputs[0] for result in results if result.outputs[0].finish_reason == "stop"]
    assert len(ended) > CASES // 2, [llm.tokenizer.decode(r.outputs[0].token_ids) for r in results]
    for output in ended:
        value = json.loads(output.text)
        assert set(value) == {"n"}
        assert 1 <= value["n"] <= 12
        if thoughts is not None:
            assert ("</think>" in llm.tokenizer.decode(output.token_ids)) == thoughts


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
def test_forced_calls(llm: LLM, choice: Any) -> None:
    results = llm.chat([HELLO] * CASES, asked(llm), use_tqdm=False, tools=[FUNCTION, OTHER], tool_choice=choice)
    ended = [result.outputs[0] for result in results if result.outputs[0].finish_reason == "tool_calls"]
    assert len(ended) > CASES // 2, [llm.tokenizer.decode(r.outputs[0].token_ids) for r in results]
    for output in ended:
        assert output.text == ""
        assert choice == "required" or [call.name for call in output.tool_calls] == ["look_up"]
        for call in output.tool_calls:
            assert (call.name == "look_up") == ("n" in json.loads(call.arguments))
