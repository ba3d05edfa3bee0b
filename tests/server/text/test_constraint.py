"""Grammars made of constraints: what they let pass, by llguidance over a small vocabulary, and what is refused."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from yardmaster.server.text.constraint import (
    Call,
    Constraint,
    ConstraintError,
    chat_grammar,
    plain_grammar,
)
from yardmaster.server.text.harmony.grammar import HarmonySpeech
from yardmaster.weights.tokenizer_writer import special_ids, write_tokenizer

VOCAB = 1200


def harmony_grammar(constraint, calls=(), **options):
    return chat_grammar(HarmonySpeech(), constraint, calls, **options)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, VOCAB, 4096)
    return LLTokenizer(
        (folder / "tokenizer.json").read_text(), n_vocab=VOCAB, eos_token=[special_ids(VOCAB)["<|return|>"]]
    )


def passes(tokenizer, grammar: str, text: str) -> bool:
    """Whether the text, with its special tokens, is a whole output."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_str(text, parse_special=True)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def walk(tokenizer, grammar: str, rng: random.Random, most: int = 3000) -> str:
    """A random output, as a model at the highest temperature would write it."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    words = np.zeros(-(-VOCAB // 32), dtype=np.int32)
    tokens: list[int] = []
    ends = set(special_ids(VOCAB).values())
    while not matcher.is_stopped() and len(tokens) < most:
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB]).tolist()
        closing = [token for token in allowed if token in ends]
        token = rng.choice(closing) if closing and rng.random() < 0.3 else rng.choice(allowed)
        if token == special_ids(VOCAB)["<|return|>"]:
            break
        assert matcher.consume_token(token)
        tokens.append(token)
    return tokenizer.decode_str(tokens)


HEAD = "<|channel|>analysis<|message|>Hm, so\n…<|end|><|start|>assistant"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (
            Constraint("json_schema", SCHEMA),
            ['{"a":5}', '{ "a" : -5 }', '{\n  "a": 5\n}'],
            ['{"a":"5"}', "{}", '{"a":5,"b":1}'],
        ),
        (Constraint("json_schema", {"enum": ["x", 2]}), ['"x"', "2"], ["x", "3"]),
        (Constraint("json_schema", True), ["[]", '"é"', "null"], ["nul", "{"]),
        (Constraint("json_object"), ["{}", '{"x": [1, {"y": null}]}'], ["[]", '"x"', "{'x': 1}"]),
        (Constraint("regex", r"[a-c]{2}/\d+"), ["ab/1", "cc/20"], ["ab", "ab\\/1", "abc/1"]),
        (Constraint("regex", "a\nb|c\\/d"), ["a\nb", "c/d"], ["a b", "ab"]),
        (Constraint("regex", r"a\\/b\\"), ["a\\/b\\"], ["a/b", "a\\b\\"]),
        (Constraint("choice", ["yes", 'a "b"\n\\', "yes!"]), ["yes", "yes!", 'a "b"\n\\'], ["y", "no", "yes!!"]),
        (Constraint("grammar", 'start: "(" other ")"\nother: /[0-9]+/ | start'), ["(1)", "((2))"], ["()", "(1"]),
        (Constraint("grammar", 'root ::= "x" tail\ntail ::= [a-z] | root'), ["xy", "xxy"], ["x", "xyz"]),
    ],
)  # fmt: skip
def test_what_passes(tokenizer, constraint, good, bad):
    plain, harmony = plain_grammar(constraint), harmony_grammar(constraint)
    for text in good:
        assert passes(tokenizer, plain, text), text
        for head in ("", HEAD, HEAD * 2):
            assert passes(tokenizer, harmony, f"{head}<|channel|>final<|message|>{text}"), text
    for text in bad:
        assert not passes(tokenizer, plain, text), text
        assert not passes(tokenizer, harmony, f"<|channel|>final<|message|>{text}"), text
    for text in good:
        assert not passes(tokenizer, harmony, text), "headers are part of it"
        preamble = "<|channel|>commentary<|message|>Well.<|end|><|start|>assistant"
        assert not passes(tokenizer, harmony, f"{preamble}<|channel|>final<|message|>{text}"), "it would be content too"
        assert not passes(tokenizer, harmony, HEAD), "an answer must come"


def test_calls(tokenizer):
    calls = [Call("get_weather", SCHEMA), Call("stop", {})]
    call = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"a": 7}<|call|>'
    other = "<|channel|>commentary to=functions.stop <|constrain|>json<|message|>{}<|call|>"
    answer = "<|channel|>final<|message|>fine"
    preamble = "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant"
    free, forced = harmony_grammar(None, calls), harmony_grammar(None, calls, must_call=True)
    for grammar in (free, forced):
        for head in ("", HEAD, HEAD + preamble):
            assert passes(tokenizer, grammar, head + call)
            assert passes(tokenizer, grammar, head + other)
        assert not passes(tokenizer, grammar, call.replace("7", '"7"'))
        assert not passes(tokenizer, grammar, call.replace("get_weather", "get_whether"))
        assert not passes(tokenizer, grammar, call + call)
    assert passes(tokenizer, free, HEAD + answer)
    assert not passes(tokenizer, forced, HEAD + answer)
    assert passes(tokenizer, free, HEAD + preamble + answer)
    form = harmony_grammar(Constraint("choice", ["fine"]), calls)
    assert passes(tokenizer, form, HEAD + answer)
    assert passes(tokenizer, form, preamble + HEAD + call)
    assert not passes(tokenizer, form, preamble + HEAD + answer)
    with pytest.raises(ConstraintError, match="no function"):
        harmony_grammar(None, [], must_call=True)


def test_random_walks_end_in_what_was_asked_for(tokenizer):
    rng = random.Random()
    for _ in range(15):
        text = walk(tokenizer, plain_grammar(Constraint("json_schema", SCHEMA)), rng)
        assert isinstance(json.loads(text)["a"], int)
        text = walk(tokenizer, harmony_grammar(Constraint("regex", "[a-f]{3}")), rng)
        assert re.search(r"<\|channel\|>final<\|message\|>[a-f]{3}$", text), text
        text = walk(tokenizer, harmony_grammar(None, [Call("f", SCHEMA)], must_call=True), rng)
        found = re.search(
            r"<\|channel\|>commentary to=functions\.f <\|constrain\|>json<\|message\|>(.*)<\|call\|>$", text, re.S
        )
        assert found, text
        assert isinstance(json.loads(found[1])["a"], int)


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (Constraint("json_schema", 5), "must be an object"),
        (Constraint("json_schema", {"type": "integr"}), "integr"),
        (Constraint("json_schema", {"not": {"type": "string"}}), "not"),
        (Constraint("json_schema", {"$ref": "#/nowhere"}), "nowhere"),
        (Constraint("json_schema", {"type": "string", "pattern": "(?=x)"}), "regex"),
        (Constraint("json_schema", {"type": "integer", "minimum": 5, "maximum": 4}), "."),
        (Constraint("regex", ""), "not empty"),
        (Constraint("regex", 7), "must be a text"),
        (Constraint("regex", "("), "."),
        (Constraint("regex", "a" * (1 << 18)), "characters long"),
        (Constraint("choice", []), "1 to 4096"),
        (Constraint("choice", ["a", ""]), "none of them empty"),
        (Constraint("choice", ["a", 5]), "none of them empty"),
        (Constraint("grammar", ""), "not empty"),
        (Constraint("grammar", 'other: "x"'), "start"),
        (Constraint("grammar", "start: nobody"), "nobody"),
        (Constraint("grammar", "root ::= ("), "."),
        (Constraint("grammar", 'start: <|end|> "x"'), "special tokens"),
        (Constraint("grammar", 'start: "x" <[1190]>'), "by id"),
        (Constraint("grammar", 'start: "x" <[^5]>'), "by id"),
        (Constraint("grammar", 'start: "a"\n}\nstart2: "b"'), "."),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_line(constraint, words):
    for make in (plain_grammar, harmony_grammar):
        with pytest.raises(ConstraintError, match=words) as caught:
            make(constraint)
        assert "\n" not in str(caught.value)


def test_deep_schemas_are_refused_and_not_recursed_into():
    for levels in (150, 10_000):
        schema: dict = {}
        for _ in range(levels):
            schema = {"type": "array", "items": schema}
        with pytest.raises(ConstraintError, match="levels deep"):
            plain_grammar(Constraint("json_schema", schema))
    with pytest.raises(ConstraintError, match="deep"):
        harmony_grammar(None, [Call("f", schema)])


def test_a_schemas_own_options_do_not_count(tokenizer):
    grammar = plain_grammar(
        Constraint("json_schema", SCHEMA | {"x-guidance": {"whitespace_flexible": False, "lenient": True}})
    )
    assert passes(tokenizer, grammar, '{ "a": 1 }')
    assert not passes(tokenizer, grammar, "{" + " " * 40 + '"a": 1 }')


def test_hostile_names_of_functions_stay_text(tokenizer):
    grammar = harmony_grammar(None, [Call('x" <|end|> "', {})], must_call=True)
    assert not passes(tokenizer, grammar, "<|channel|>commentary to=functions.x<|end|>")
