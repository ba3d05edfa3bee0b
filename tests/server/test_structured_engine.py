"""Structured output by the real engine with random weights: whatever such a model says, each finished answer validates.

The schemas are made at random in the manner of public benchmarks; the judge is the package `jsonschema`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from yardmaster import LLM, SamplingParams, StructuredOutputsParams
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint

PATTERNS = [
    r"^[a-c]{2,4}$",
    r"^\d{3}-\d{2}$",
    r"^(yes|no|maybe)$",
    r"^[A-Z][a-z]{0,5}$",
    r"^#[0-9a-f]{6}$",
    r"^v\d\.\d$",
]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email"]
WORDS = ["red", "Größe", "a b", "", "日本", 'q"uote', "back\\slash", "new\nline", "🙂"]


FORMAT_CHECKER = jsonschema.FormatChecker(["uuid", "ipv4", "ipv6", "email"])


@FORMAT_CHECKER.checks("date")
def _is_date(text: object) -> bool:
    return not isinstance(text, str) or _parses(text + "T00:00:00Z")


@FORMAT_CHECKER.checks("time")
def _is_time(text: object) -> bool:
    """RFC 3339's full-time. A leap second may stand in any minute: the grammar does not know the rest of the day."""
    return not isinstance(text, str) or _parses("2000-02-29T" + text)


@FORMAT_CHECKER.checks("date-time")
def _is_date_time(text: object) -> bool:
    return not isinstance(text, str) or _parses(text)


def _parses(text: str) -> bool:
    """Any year may have a 29th of February, and there is a year 0: nor does the grammar know the calendar."""
    pattern = r"\d{4}(-\d\d-\d\dT\d\d:\d\d:)(\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)"
    found = re.fullmatch(pattern, text.upper(), re.ASCII)
    if found is None:
        return False
    try:
        datetime.fromisoformat("2000" + found[1] + ("59" if found[2] == "60" else found[2]))
    except ValueError:
        return False
    return True


class Generator:
    """Schemas whose answers are short, by a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.defs: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        for place in range(self.rng.randrange(3)):
            self.defs[f"d{place}"] = self.schema(1)
        if self.rng.random() < 0.2:  # a tree, whose branches may end at any place
            self.defs["node"] = {
                "type": "object",
                "properties": {"v": self.scalar(), "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                "required": ["v", "next"],
                "additionalProperties": False,
            }
        schema = self.schema(3)
        return schema | {"$defs": self.defs} if self.defs else schema

    def schema(self, depth: int) -> dict[str, Any]:
        rng = self.rng
        if depth == 0 or rng.random() < 0.3:
            return self.scalar()
        kind = rng.choice(["object", "object", "object", "array", "anyOf", "allOf", "ref", "types", "tuple"])
        if kind == "object":
            return self.object(depth)
        if kind == "array":
            low = rng.randrange(3)
            return {
                "type": "array",
                "items": self.schema(depth - 1),
                "minItems": low,
                "maxItems": low + rng.randrange(3),
            }
        if kind == "tuple":
            items = [self.schema(depth - 1) for _ in range(rng.randrange(1, 4))]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if kind == "anyOf":
            return {"anyOf": [self.schema(depth - 1) for _ in range(rng.randrange(1, 4))]}
        if kind == "allOf":
            low = rng.randrange(50)
            return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + rng.randrange(30)}]}
        if kind == "ref" and self.defs:
            return {"$ref": f"#/$defs/{rng.choice(sorted(self.defs))}"}
        return {"type": ["string", "null", "boolean"], "maxLength": 4}

    def object(self, depth: int) -> dict[str, Any]:
        rng = self.rng
        if rng.random() < 0.15:
            return self.map(depth)
        names = rng.sample(["id", "name", "größe", "a b", "x-y", "$value", "type", '"'], rng.randrange(5))
        return {
            "type": "object",
            "properties": {name: self.schema(depth - 1) for name in names},
            "required": [name for name in names if rng.random() < 0.7],
            "additionalProperties": False,
        }

    def map(self, depth: int) -> dict[str, Any]:
        """Keys that the model chooses."""
        rng = self.rng
        values = self.schema(depth - 1)
        keys = {"additionalProperties": values}
        if rng.random() < 0.5:
            keys = {"patternProperties": {"^[a-z]{1,3}$": values}, "additionalProperties": False}
        return {"type": "object", "maxProperties": rng.randrange(1, 4), **keys}

    def scalar(self) -> dict[str, Any]:
        rng = self.rng
        kind = rng.choice(["string", "pattern", "format", "integer", "number", "bool", "null", "enum", "const"])
        if kind == "string":
            low = rng.randrange(4)
            return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(5)}
        if kind == "pattern":
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        if kind == "format":
            return {"type": "string", "format": rng.choice(FORMATS)}
        if kind == "integer":
            if rng.random() < 0.2:
                return {"type": "integer", "minimum": 0, "maximum": 99, "multipleOf": rng.choice([2, 5, 7])}
            low = rng.randrange(-200, 200)
            bounds = {rng.choice(["minimum", "exclusiveMinimum"]): low}
            bounds[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.randrange(2, 300)
            return {"type": "integer", **bounds}
        if kind == "number":
            low = round(rng.uniform(-50, 50), 2)
            return {"type": "number", "minimum": low, "maximum": round(low + rng.uniform(1, 30), 2)}
        if kind == "enum":
            return {"enum": rng.sample([*WORDS, 1, -2.5, True, None], rng.randrange(1, 5))}
        if kind == "const":
            return {"const": rng.choice([*WORDS, 7, False, None, [1, "a"], {"k": [None]}])}
        return {"type": "boolean" if kind == "bool" else "null"}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    directory: Path = tmp_path_factory.mktemp("structured") / "tiny"
    shape = {"hidden_size": 32, "num_layers": 1, "head_dim": 16, "num_heads": 4, "expert_width": 32, "num_experts": 4}
    write_random_checkpoint(directory, small_gpt_oss(vocab_size=512, **shape))
    flags: dict[str, Any] = {
        "device": "cpu",
        "max_model_len": 768,
        "kv_cache_memory_bytes": 8 << 20,
        "max_num_seqs": 32,
    }
    with LLM(directory, **flags) as model:
        yield model


def check(schema: dict[str, Any], text: str) -> None:
    value = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema, format_checker=FORMAT_CHECKER).validate(value)


@pytest.mark.parametrize("cases", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_finished_answer_validates(llm: LLM, cases: int) -> None:
    start = random.getrandbits(32)
    schemas = [Generator(start + place).document() for place in range(cases)]
    params = [
        SamplingParams(
            structured_outputs=StructuredOutputsParams(json=schema, disable_any_whitespace=place % 4 == 0),
            max_tokens=400,
            temperature=random.Random(place).choice([0.0, 1.0, 2.0]),
            seed=place,
        )
        for place, schema in enumerate(schemas)
    ]
    finished = 0
    for place, result in enumerate(llm.generate(["x"] * cases, params, use_tqdm=False)):
        (output,) = result.outputs
        if output.finish_reason == "stop":
            finished += 1
            try:
                check(schemas[place], output.text)
            except (ValueError, jsonschema.ValidationError) as error:
                pytest.fail(f"seed {start + place}: {output.text!r} for {json.dumps(schemas[place])}: {error}")
    assert finished > 0.9 * cases


def bias(llm: LLM, **values: float) -> dict[int, float]:
    return {llm.tokenizer.special_texts[f"<|{name}|>"]: value for name, value in values.items()}


HELLO = [{"role": "user", "content": "hello"}]
THING = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 12}, "s": {"type": "string", "maxLength": 3}},
    "required": ["n", "s"],
    "additionalProperties": False,
}
FUNCTION = {"type": "function", "function": {"name": "look_up", "parameters": THING, "strict": True}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"not": {}}}}


def test_an_answer_behind_reasoning(llm: LLM) -> None:
    """A random model hardly ever ends a thought: it is helped to."""
    params = [
        SamplingParams(
            structured_outputs=StructuredOutputsParams(json=THING),
            max_tokens=300,
            seed=seed,
            temperature=20.0,
            logit_bias=bias(llm, end=100, **{"return": 100}),
        )
        for seed in range(12)
    ]
    thoughts = 0
    for result in llm.chat([HELLO] * len(params), params, use_tqdm=False):
        (output,) = result.outputs
        assert output.finish_reason == "stop"
        assert output.tool_calls == ()
        check(THING, output.text)
        thoughts += bool(output.reasoning)
    assert thoughts


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "look_up"}}], ids=["required", "named"]
)
def test_forced_calls(llm: LLM, choice: Any) -> None:
    helped = bias(llm, end=100, message=-100)  # to a call rather than to a further thought
    params = [SamplingParams(max_tokens=300, seed=seed, logit_bias=helped, temperature=20.0) for seed in range(8)]
    results = llm.chat([HELLO] * 8, params, use_tqdm=False, tools=[FUNCTION, OTHER], tool_choice=choice)
    ended = [result for result in results if result.outputs[0].finish_reason != "length"]
    assert len(ended) > 4
    for result in ended:
        (output,) = result.outputs
        assert output.finish_reason == "tool_calls"
        (call,) = output.tool_calls
        if call.name == "look_up":
            check(THING, call.arguments)
        else:
            assert choice == "required"
            assert isinstance(json.loads(call.arguments), dict)
        assert "look_up" in (result.prompt or "")
    pieces = list(llm.stream_chat(HELLO, params[0], tools=[FUNCTION, OTHER], tool_choice=choice))
    streamed = [call for piece in pieces for call in piece.calls]
    assert "".join(call.arguments for call in streamed) == "".join(
        call.arguments for call in results[0].outputs[0].tool_calls
    )


def test_all_other_forms(llm: LLM) -> None:
    forms = {
        r"[ab]{3}\d": StructuredOutputsParams(regex=r"[ab]{3}\d"),
        "yes|no": StructuredOutputsParams(choice=("yes", "no")),
        r"\(+x\)+": StructuredOutputsParams(grammar='start: "(" (start | "x") ")"'),
    }
    params = [SamplingParams(structured_outputs=form, max_tokens=200, seed=1) for form in forms.values()]
    for pattern, result in zip(forms, llm.generate(["x"] * len(forms), params), strict=True):
        if result.outputs[0].finish_reason == "stop":
            assert re.fullmatch(pattern, result.outputs[0].text)


def test_bad_words_and_allowed_tokens(llm: LLM) -> None:
    free = SamplingParams(max_tokens=60, seed=4, ignore_eos=True)
    (said,) = llm.generate("x", free)[0].outputs
    single, double = said.token_ids[3], tuple(said.token_ids[10:12])
    ids = (*range(20, 60), 300)
    bad = msgspec.structs.replace(free, bad_token_ids=((single,), double))
    some = msgspec.structs.replace(free, allowed_token_ids=ids)
    one, two = llm.generate(["x", "x"], [bad, some])
    assert one.outputs[0].token_ids[:3] == said.token_ids[:3]
    assert single not in one.outputs[0].token_ids
    assert double not in zip(one.outputs[0].token_ids, one.outputs[0].token_ids[1:], strict=False)
    assert len(two.outputs[0].token_ids) == 60
    assert set(two.outputs[0].token_ids) <= set(ids)
    word = next(text for token in said.token_ids if len(text := llm.tokenizer.decode([token]).strip()) > 1)
    again = llm.generate("x", msgspec.structs.replace(free, bad_words=(word,)))[0].outputs[0]
    assert set(llm.tokenizer.encode(word)) - set(again.token_ids) or len(llm.tokenizer.encode(word)) > 1


@pytest.mark.parametrize(
    ("params", "more", "words"),
    [
        ({"json": {"not": {}}}, {}, r"messages\[0\]: structured_outputs: "),
        ({}, {"tools": [FUNCTION, {**OTHER, "function": {**OTHER["function"], "strict": True}}]}, r"tools\[1\]\.f"),
        ({"json": "{"}, {}, "not JSON"),
        ({"json": {}, "regex": "a"}, {}, "only one"),
        ({"regex": "a"}, {"tools": [OTHER], "tool_choice": "required"}, "contradict"),
        ({"regex": "a"}, {"add_generation_prompt": False}, "begins itself"),
        ({}, {"tools": [{"type": "function"}]}, "tools"),
        ({}, {"tools": [FUNCTION], "tool_choice": "sometimes"}, "tool_choice"),
        ({}, {"tool_choice": "auto"}, "goes with tools"),
        ({}, {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "none of the"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_a_value_error(llm: LLM, params: Any, more: Any, words: str) -> None:
    asked = SamplingParams(structured_outputs=StructuredOutputsParams(**params)) if params else SamplingParams()
    with pytest.raises(ValueError, match=words):
        llm.chat(HELLO, asked, **more)
