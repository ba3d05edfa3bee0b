"""Every field that OpenAI's and vLLM's requests have: it changes something, or is refused by its name, or is named as
ignored. Lists of names are those of OpenAI's published document and of vLLM's reference, so that none is forgotten.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import msgspec
import pytest

from yardmaster.server.http.schema.chat import ChatRequest
from yardmaster.server.http.schema.completions import CompletionRequest
from yardmaster.server.http.schema.fields import IGNORED, NOT_OFFERED, SamplingFields
from yardmaster.server.responses.schema import MOVED, ResponsesRequest
from yardmaster.server.responses.schema import NOT_OFFERED as RESPONSES_NOT_OFFERED

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "user", "content": "hi there"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FLAT = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
CALL = "<|start|>assistant<|channel|>commentary to=functions.f<|message|>{}"
SAID = (
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hello 🙂<|end|>"
    f"{CALL}<|end|>{CALL}"
)

OPENAI_CHAT = """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
    messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options"""
OPENAI_TEXT = """best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop
    stream stream_options suffix temperature top_p user"""
OPENAI_RESPONSES = """background context_management conversation include input instructions max_output_tokens
    max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning safety_identifier service_tier store stream stream_options
    temperature text tool_choice tools top_logprobs top_p truncation user"""
VLLM = """use_beam_search top_k min_p repetition_penalty watermarking length_penalty stop_token_ids
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
    truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words
    add_special_tokens response_format structured_outputs priority request_id session_id return_tokens_as_token_ids
    return_token_ids routed_experts_prompt_start return_token_offsets cache_salt kv_transfer_params ec_transfer_params
    vllm_xargs repetition_detection thinking_token_budget stream_interval logits_processors guided_json guided_regex
    guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern structural_tag"""
VLLM_CHAT = """echo add_generation_prompt continue_final_message documents chat_template chat_template_kwargs
    media_io_kwargs mm_processor_kwargs include_reasoning return_prompt_text"""
VLLM_TEXT = "prompt_embeds"

Effects = dict[str, tuple[Any, dict[str, Any]]]
"""By field: a value, and what else the request must have, with and without it."""

BOTH: Effects = {
    "model": ("org/alias-that-is-not", {}),
    "max_tokens": (7, {}),
    "min_tokens": (2, {"max_tokens": 7}),
    "temperature": (0.25, {}),
    "top_p": (0.5, {}),
    "top_k": (3, {}),
    "min_p": (0.1, {}),
    "seed": (5, {}),
    "stop": ("llo", {}),
    "stop_token_ids": ([65], {}),
    "presence_penalty": (0.5, {}),
    "frequency_penalty": (0.5, {}),
    "repetition_penalty": (1.5, {}),
    "logit_bias": ({"5": 1}, {}),
    "ignore_eos": (True, {}),
    "include_stop_str_in_output": (True, {"stop": "llo"}),
    "prompt_logprobs": (1, {}),
    "n": (2, {}),
    "stream": (True, {}),
    "stream_options": ({"include_usage": True}, {"stream": True}),
    "request_id": ("mine", {}),
    "priority": (-3, {}),
    "include_metrics": (True, {}),
    "return_token_ids": (True, {}),
    "truncate_prompt_tokens": (2, {}),
    "allowed_token_ids": ([65], {}),
    "bad_words": (["x"], {}),
    "response_format": (FORMAT, {}),
    "structured_outputs": ({"regex": "a"}, {}),
    "guided_json": (SCHEMA, {}),
    "guided_regex": ("a", {}),
    "guided_choice": (["a"], {}),
    "guided_grammar": ('start: "a"', {}),
}
EFFECTS: dict[str, Effects] = {
    CHAT: {
        **BOTH,
        "messages": ([{"role": "user", "content": "bye"}], {}),
        "tools": ([TOOL], {}),
        "tool_choice": ("required", {"tools": [TOOL]}),
        "parallel_tool_calls": (False, {"tools": [TOOL]}),
        "max_completion_tokens": (7, {}),
        "logprobs": (True, {}),
        "top_logprobs": (2, {"logprobs": True}),
        "reasoning_effort": ("high", {}),
        "include_reasoning": (False, {}),
        "add_generation_prompt": (False, {}),
        "continue_final_message": (
            True, {"messages": [*HELLO, {"role": "assistant", "content": "x"}], "add_generation_prompt": False}
        ),
        "chat_template_kwargs": ({"model_identity": "Somebody."}, {}),
        "service_tier": ("default", {}),
    },
    TEXT: {
        **BOTH,
        "prompt": ("bye", {}),
        "echo": (True, {}),
        "logprobs": (1, {}),
        "skip_special_tokens": (False, {}),
    },
    RESPONSES: {
        "model": ("org/alias-that-is-not", {}),
        "input": ("bye", {}),
        "instructions": ("Be kind.", {}),
        "max_output_tokens": (7, {}),
        "reasoning": ({"effort": "high"}, {}),
        "text": ({"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, {}),
        "tools": ([FLAT], {}),
        "tool_choice": ("required", {"tools": [FLAT]}),
        "parallel_tool_calls": (False, {"tools": [FLAT]}),
        "include": (["message.output_text.logprobs"], {}),
        "top_logprobs": (2, {"include": ["message.output_text.logprobs"]}),
        "stream": (True, {}),
        "store": (False, {}),
        "background": (True, {}),
        "previous_response_id": ("resp_nobody", {}),
        **{name: BOTH[name] for name in (
            "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
            "repetition_penalty", "ignore_eos", "stop_token_ids",
        )},
        "min_tokens": (2, {"max_output_tokens": 7}),
        # The answer says these again.
        "metadata": ({"a": "b"}, {}),
        "max_tool_calls": (3, {}),
        "user": ("u", {}),
        "safety_identifier": ("s", {}),
        "prompt_cache_key": ("k", {}),
        "prompt_cache_retention": ("24h", {}),
    },
}  # fmt: skip
NO_EFFECT: dict[str, Any] = {
    "user": "u",
    "safety_identifier": "s",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "cache_salt": "salt",
    "session_id": "s",
}
"""Taken, and named in the header x-ignored-fields."""
REFUSED: dict[str, Any] = {
    "audio": {"voice": "x", "format": "wav"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"x": 1},
    "verbosity": "high",
    "web_search_options": {},
    "suffix": "x",
    "use_beam_search": True,
    "length_penalty": 2.0,
    "truncation_side": "right",
    "logprob_token_ids": [1],
    "spaces_between_special_tokens": False,
    "return_tokens_as_token_ids": True,
    "routed_experts_prompt_start": 3,
    "return_token_offsets": True,
    "return_prompt_text": True,
    "kv_transfer_params": {"a": 1},
    "ec_transfer_params": {"a": 1},
    "vllm_xargs": {"a": 1},
    "repetition_detection": {"a": 1},
    "thinking_token_budget": 100,
    "stream_interval": 5,
    "logits_processors": ["x"],
    "guided_decoding_backend": "outlines",
    "guided_whitespace_pattern": " ",
    "structural_tag": "x",
    "documents": [{"title": "a"}],
    "chat_template": "{{ x }}",
    "media_io_kwargs": {"image": {}},
    "mm_processor_kwargs": {"a": 1},
    "prompt_embeds": "AAAA",
}
ONLY_CHAT_REFUSES: dict[str, Any] = {
    "echo": True,
    "add_special_tokens": True,
    "best_of": 2,
    "skip_special_tokens": False,  # of a model that speaks Harmony
    "prompt": "x",
}
ONLY_TEXT_REFUSES: dict[str, Any] = {
    "best_of": 2,
    "tools": [TOOL],
    "tool_choice": "auto",
    "messages": HELLO,
    "max_completion_tokens": 5,
    "top_logprobs": 2,
    "reasoning_effort": "low",
    "include_reasoning": False,
    "parallel_tool_calls": False,
    "add_generation_prompt": True,
    "continue_final_message": True,
    "chat_template_kwargs": {"a": 1},
}
RESPONSES_REFUSE: dict[str, Any] = {
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "moderation": {"model": "m"},
    "prompt": {"id": "p"},
    "prompt_cache_options": {"x": 1},
    "stream_options": {"include_obfuscation": True},
    "truncation": "auto",
    "service_tier": "fast",
    "access_programs": ["x"],
    "image": {"x": 1},
    **dict.fromkeys(MOVED, "x"),
}
REFUSALS = {
    CHAT: REFUSED | ONLY_CHAT_REFUSES,
    TEXT: REFUSED | ONLY_TEXT_REFUSES,
    RESPONSES: RESPONSES_REFUSE,
}
ALWAYS: dict[str, dict[str, Any]] = {
    CHAT: {"watermarking": False},
    TEXT: {"watermarking": False, "add_special_tokens": False},
    RESPONSES: {"service_tier": "auto"},
}
"""What asks for something that is so in any case. (The tokenizer here adds no special tokens.)"""
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "tools": [TOOL], "seed": 1},
    TEXT: {"prompt": "hi there", "seed": 1, "max_tokens": 100},
    RESPONSES: {"input": "hi there", "seed": 1},
}


def post(stage: Any, path: str, body: dict[str, Any]) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(stage.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    stage.engine.submitted.clear()
    return asyncio.run(send())


def observed(stage: Any, path: str, body: dict[str, Any]) -> tuple[Any, ...]:
    """All that a client and the engine see of a request, less what is drawn by chance or told by clocks."""
    answer = post(stage, path, body)
    submits = [msgspec.to_builtins(submit) for submit in stage.engine.submitted]
    for submit in submits:
        del submit["arrival"], submit["request_id"]
    text = re.sub(r'"(created|created_at|completed_at)":[\d.]+', "", answer.text)
    text = re.sub(r"[0-9a-f]{24,}", "ID", text)
    ignored = answer.headers.get("x-ignored-fields")
    return answer.status_code, answer.headers["content-type"], text, ignored, submits


def base(path: str, extra: dict[str, Any], field: str = "") -> dict[str, Any]:
    """The request without `field`, unless it must be there."""
    needed = ("messages", "prompt", "input")
    return {name: value for name, value in (BASE[path] | extra).items() if name != field or name in needed}


@pytest.fixture
def stage(harmony: Any) -> Any:
    harmony.engine.script = harmony.say(SAID, size=1000)
    harmony.application = harmony.app()
    return harmony


@pytest.mark.parametrize("path", list(EFFECTS))
def test_a_field_changes_something(stage: Any, path: str) -> None:
    for field, (value, extra) in EFFECTS[path].items():
        before = base(path, extra, field)
        without, with_it = observed(stage, path, before), observed(stage, path, before | {field: value})
        assert without[0] == 200, (field, without[2])
        if field not in ("model", "previous_response_id"):
            assert with_it[0] == 200, (field, with_it[2])
        assert with_it != without, field
        if field not in BASE[path]:
            assert observed(stage, path, before | {field: None}) == without, field


@pytest.mark.parametrize("path", list(REFUSALS))
def test_a_field_is_refused_by_its_name(stage: Any, path: str) -> None:
    for field, value in REFUSALS[path].items():
        extra = {"stream": True} if field == "stream_options" else {}
        answer = post(stage, path, base(path, extra) | {field: value})
        assert answer.status_code == 400, (field, answer.text)
        error = answer.json()["error"]
        assert error["param"].partition(".")[0] == field
        assert error["message"].startswith(field)
        assert stage.engine.submitted == []


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_asks_for_nothing_is_taken(stage: Any, path: str) -> None:
    without = observed(stage, path, BASE[path])
    model = ChatRequest if path == CHAT else CompletionRequest
    for field, harmless in (NOT_OFFERED | model.elsewhere).items():
        for value in (None, *harmless):
            if field not in model.model_fields:
                assert observed(stage, path, BASE[path] | {field: value}) == without, (field, value)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_has_no_effect_is_named(stage: Any, path: str) -> None:
    without = observed(stage, path, BASE[path])
    assert without[3] is None
    for field, value in NO_EFFECT.items():
        with_it = observed(stage, path, BASE[path] | {field: value})
        assert with_it[3] == field
        if field != "service_tier":
            assert (with_it[:3], with_it[4]) == (without[:3], without[4])
        for nothing in (None, *IGNORED[field]):
            assert observed(stage, path, BASE[path] | {field: nothing})[3] is None
        streamed = post(stage, path, BASE[path] | {field: value, "stream": True})
        assert streamed.headers["x-ignored-fields"] == field
        assert post(stage, path, BASE[path] | {field: 5.5}).json()["error"]["param"] == field
    everything = post(stage, path, BASE[path] | NO_EFFECT)
    assert everything.headers["x-ignored-fields"] == ", ".join(IGNORED)
    tier = post(stage, CHAT, BASE[CHAT] | {"service_tier": "priority"}).json()
    assert tier["service_tier"] == "default"


def test_every_known_field_is_in_a_table(stage: Any) -> None:
    tables = {
        CHAT: {*EFFECTS[CHAT], *REFUSALS[CHAT], *NO_EFFECT, *ALWAYS[CHAT]},
        TEXT: {*EFFECTS[TEXT], *REFUSALS[TEXT], *NO_EFFECT, *ALWAYS[TEXT]},
        RESPONSES: {*EFFECTS[RESPONSES], *REFUSALS[RESPONSES], *ALWAYS[RESPONSES]},
    }
    known = {
        CHAT: {*f"{OPENAI_CHAT} {VLLM} {VLLM_CHAT}".split(), *ChatRequest.model_fields, *ChatRequest.elsewhere},
        TEXT: {*f"{OPENAI_TEXT} {VLLM} {VLLM_TEXT}".split(), *CompletionRequest.model_fields},
        RESPONSES: {*OPENAI_RESPONSES.split(), *ResponsesRequest.model_fields, *MOVED, *RESPONSES_NOT_OFFERED},
    }
    known[TEXT] |= {*CompletionRequest.elsewhere}
    for path in (CHAT, TEXT):
        known[path] |= {*NOT_OFFERED, *SamplingFields.model_fields, *IGNORED}
    for path, names in known.items():
        assert names - tables[path] == set(), path
    assert set(NO_EFFECT) == set(IGNORED)


@pytest.mark.parametrize("path", list(ALWAYS))
def test_what_is_so_in_any_case(stage: Any, path: str) -> None:
    without = observed(stage, path, BASE[path])
    for field, value in ALWAYS[path].items():
        assert observed(stage, path, BASE[path] | {field: value}) == without


def test_stream_options(stage: Any) -> None:
    for path in (CHAT, TEXT):
        for options in ({"include_usage": True}, {"continuous_usage_stats": True}):
            body = BASE[path] | {"stream": True}
            assert observed(stage, path, body | {"stream_options": options}) != observed(stage, path, body)
        refused = post(stage, path, body | {"stream_options": {"include_obfuscation": True}}).json()
        assert refused["error"]["param"] == "stream_options.include_obfuscation"
        assert post(stage, path, body | {"stream_options": {"include_obfuscation": False}}).status_code == 200
        assert json.dumps(post(stage, path, BASE[path] | {"stream_options": {}}).json()["error"]["param"])
