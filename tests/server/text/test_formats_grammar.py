"""Grammars of other families' answers, by the real engine: what passes is read as meant, and all else does not pass.

Every vocabulary is tried: markers that are control tokens, tokens that the template alone may write, tokens that anyone
may, and no tokens at all.
"""

# ruff: noqa: RUF001 (the bars are DeepSeek's own)

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from yardmaster.server.http.text_splitter import format_splitter
from yardmaster.server.text.constraint import Call, Constraint, chat_grammar
from yardmaster.server.text.formats.registry import REASONING_PARSERS, TOOL_PARSERS, ChatFormat
from yardmaster.server.text.offered_tools import OfferedTools, ToolsError
from yardmaster.server.text.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "s": {"enum": ["x", "</think>", "}]"]}},
    "required": ["a"],
    "additionalProperties": False,
}
CALLS = (Call("get_weather", SCHEMA), Call("stop", {}))
KINDS = ("control", "template", "added", "letters")
EOS = "<|eos|>"


class Vocabulary:
    """Bytes, some words, and the markers of a format, of one of the three kinds."""

    def __init__(self, folder: Path, format: ChatFormat, kind: str) -> None:
        markers = [*(format.family.markers if format.family else ()), *(format.think.markers if format.think else ())]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = tokenizers.Tokenizer(models.BPE({character: at for at, character in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
        if kind != "letters":
            added = [AddedToken(marker, special=kind == "control", normalized=False) for marker in markers]
            (backend.add_special_tokens if kind == "control" else backend.add_tokens)(added)
        folder.mkdir(exist_ok=True)
        if kind == "template":
            (folder / "chat_template.jinja").write_text("{{ messages }}" + "".join(markers))
        backend.save(str(folder / "tokenizer.json"))
        self.backend = backend
        self.tokenizer = Tokenizer(folder)
        self.eos = backend.token_to_id(EOS)
        self.size = backend.get_vocab_size()
        self.guide = LLTokenizer(backend.to_str(), n_vocab=self.size, eos_token=[self.eos])
        self.format = format

    def ids(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def letters(self, text: str) -> list[int]:
        """Without any marker's token."""
        return [token for character in text for token in self.ids(character)]

    def grammar(self, prompt: str = "", form: Any = None, calls: Any = (), thinks: bool = True, **more: Any) -> str:
        constraint = None if form is None else Constraint("json_schema", form)
        speech = self.format.speech(self.tokenizer, self.ids(prompt), thinks=thinks)
        return chat_grammar(speech, constraint, calls, **more)

    def passes(self, grammar: str, text: str | list[int]) -> bool:
        matcher = LLMatcher(self.guide, grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        ids = self.ids(text) if isinstance(text, str) else text
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    def walk(self, grammar: str, rng: random.Random, most: int = 600) -> list[int] | None:
        """A random output to its end; None where that does not come in time."""
        matcher = LLMatcher(self.guide, grammar, log_level=0)
        words = np.zeros(-(-self.size // 32), dtype=np.int32)
        tokens: list[int] = []
        usual = self.ids('aZ 5\n{"<[')
        while not matcher.is_stopped():
            matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[: self.size]).tolist()
            special = [token for token in allowed if token >= self.eos]
            some = [token for token in allowed if token in usual]
            pick = rng.random()
            token = rng.choice(special if special and pick < 0.15 else some if some and pick < 0.5 else allowed)
            if token == self.eos:
                break
            assert matcher.consume_token(token), matcher.get_error()
            tokens.append(token)
            if len(tokens) == most:
                return None
        return tokens

    def said(self, ids: list[int], prompt: str = "", calls: Any = CALLS) -> tuple[str, str, list[tuple[str, str]]]:
        """Content, reasoning and calls, by the parser of the server."""
        names = {call.name for call in calls}
        splitter = format_splitter(self.tokenizer, self.format, self.ids(prompt), names)
        content, reasoning, found = "", "", []
        for split in [*(splitter.feed([token]) for token in ids), splitter.finish()]:
            content, reasoning = content + split.content, reasoning + split.reasoning
            for delta in split.calls:
                if delta.name is not None:
                    found.append([delta.name, ""])
                found[-1][1] += delta.arguments
        return content, reasoning, [(name, arguments) for name, arguments in found]


@pytest.fixture
def made(tmp_path: Path) -> Any:
    def make(format: ChatFormat, kind: str = "control") -> Vocabulary:
        return Vocabulary(tmp_path / kind, format, kind)

    return make


def check(name: str, arguments: str) -> None:
    value = json.loads(arguments)
    assert isinstance(value, dict)
    if name == "get_weather":
        assert set(value) <= {"a", "s"}
        assert type(value["a"]) is int
        assert 0 <= value["a"] <= 99
        assert value.get("s", "x") in ("x", "</think>", "}]")
    else:
        assert name == "stop"


ONE = '{"a": 7}'
TWO = {
    "hermes": (
        '<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>',
        '\n<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>',
    ),
    "deepseek_v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n%s\n```<｜tool▁call▁end｜>",
        "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>%s<｜tool▁call▁end｜>",
        "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "kimi_k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>%s"
        "<|tool_call_end|>",
        "<|tool_call_begin|>functions.stop:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "llama3_json": ('{"name": "get_weather", "parameters": %s}', '; {"name": "stop", "parameters": {}}'),
    "mistral": ("[TOOL_CALLS]get_weather[ARGS]%s", "[TOOL_CALLS]stop[CALL_ID]abcdefgh1[ARGS]{}"),
    "phi4_mini_json": (
        'functools[{"name": "get_weather", "arguments": %s}',
        ', {"name": "stop", "arguments": {}}]',
    ),
}
"""Two calls as the families' own templates and cards show them."""
TAIL = {"deepseek_v3": "<｜tool▁calls▁end｜>", "deepseek_v31": "<｜tool▁calls▁end｜>", "phi4_mini_json": "]"}
TAIL["kimi_k2"] = "<|tool_calls_section_end|>"
OLD_MISTRAL = (
    '[TOOL_CALLS] [{"name": "get_weather", "arguments": %s}',
    ', {"name": "stop", "arguments": {}}]',
)
FAMILIES = [(name, kind) for name in TOOL_PARSERS for kind in KINDS]


def written(name: str, kind: str) -> tuple[str, str, str]:
    """A call, a second one behind it, and what ends a single one."""
    if name == "mistral" and kind == "letters":
        return *OLD_MISTRAL, "]"
    return *TWO[name], TAIL.get(name, "")


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_forced_and_strict_calls(made: Any, name: str, kind: str) -> None:
    vocabulary = made(ChatFormat(name), kind)
    first, second, tail = written(name, kind)
    forced = vocabulary.grammar(calls=CALLS, must_call=True)
    single = vocabulary.grammar(calls=CALLS, must_call=True, several=False)
    strict = vocabulary.grammar(calls=CALLS)
    formed = vocabulary.grammar(calls=CALLS, form={"enum": ["yes"]})
    one, two = first % ONE + tail, first % ONE + second
    for grammar in (forced, single, strict, formed):
        assert vocabulary.passes(grammar, one)
        assert vocabulary.passes(grammar, two) == (grammar is not single)
        for wrong in ('{"a": "7"}', "{}", '{"a": 100}', "[]", '{"a": 7, "b": 1}'):
            assert not vocabulary.passes(grammar, first % wrong + tail), wrong
        assert not vocabulary.passes(grammar, (first % ONE + tail).replace("get_weather", "get_whether"))
    if kind in ("added", "template"):
        assert vocabulary.passes(forced, vocabulary.letters(one))
    if kind == "control" and name != "llama3_json" and name != "phi4_mini_json":
        assert not vocabulary.passes(forced, vocabulary.letters(one))
    text = "It is fine.\n"
    assert vocabulary.passes(strict, text)
    assert not vocabulary.passes(forced, text)
    assert vocabulary.passes(formed, '"yes"')
    assert not vocabulary.passes(formed, text)
    if name != "llama3_json":  # whose calls are all of an answer
        assert vocabulary.passes(strict, text + two)
        assert not vocabulary.passes(strict, text + first % "{}" + tail)
    assert not vocabulary.passes(forced, text + one)
    for ids, count in ((vocabulary.ids(one), 1), (vocabulary.ids(two), 2)):
        content, _, calls = vocabulary.said(ids)
        assert content == ""
        assert calls == [("get_weather", ONE), ("stop", "{}")][:count]


@pytest.mark.parametrize(("name", "kind"), [pair for pair in FAMILIES if pair[1] in ("control", "letters")])
def test_whatever_a_model_writes_is_what_was_asked_for(made: Any, name: str, kind: str) -> None:
    rng = random.Random()
    vocabulary = made(ChatFormat(name), kind)
    for must_call, several in ((True, True), (True, False), (False, True)):
        grammar = vocabulary.grammar(calls=CALLS, must_call=must_call, several=several)
        for _ in range(2):
            ids = vocabulary.walk(grammar, rng)
            if ids is None:
                continue
            content, _, calls = vocabulary.said(ids)
            for call in calls:
                check(*call)
            if must_call:
                assert calls, vocabulary.backend.decode(ids, False)
                assert content == ""
                assert several or len(calls) == 1


THINKERS = [(name, kind) for name in REASONING_PARSERS for kind in KINDS]


@pytest.mark.parametrize(("name", "kind"), THINKERS)
def test_reasoning_before_the_form(made: Any, name: str, kind: str) -> None:
    vocabulary = made(ChatFormat(None, name), kind)
    think = REASONING_PARSERS[name]
    body, bad = ONE, '{"a": "7"}'
    thought = 'Hm, {"a": 5} or é🙂?\n'
    opened, closed = vocabulary.grammar(think.open + "\n", SCHEMA), vocabulary.grammar(think.close + "\n\n", SCHEMA)
    grammars = {"open": opened, "ended": closed}
    if not think.always:
        grammars |= {"not yet": vocabulary.grammar("<user>", SCHEMA)}
        assert vocabulary.passes(grammars["not yet"], body)
        assert not vocabulary.passes(grammars["not yet"], thought + think.close + body)
        off = vocabulary.grammar("<user>", SCHEMA, thinks=False)
        assert vocabulary.passes(off, body)
        assert not vocabulary.passes(off, think.open + thought + think.close + body)
        assert vocabulary.grammar(think.open, SCHEMA, thinks=False) == opened  # the prompt's word is the last
    for state, grammar in grammars.items():
        for space in ("", "\n", "\n\n"):
            with_open = think.open + thought + think.close + space
            assert vocabulary.passes(grammar, with_open + body) == (state != "ended"), state
            assert not vocabulary.passes(grammar, with_open + bad)
            assert not vocabulary.passes(grammar, with_open)
            assert vocabulary.passes(grammar, thought + think.close + space + body) == (state == "open")
        assert vocabulary.passes(grammar, body) == (state != "open")
        assert not vocabulary.passes(grammar, bad)
        if kind in ("added", "template"):
            letters = vocabulary.letters(think.open + thought + think.close + body)
            assert vocabulary.passes(grammar, letters) == (state != "ended")
        if kind == "control":
            assert not vocabulary.passes(grammar, vocabulary.letters(think.open + thought + think.close + body))
    prompt = think.open
    content, reasoning, _ = vocabulary.said(vocabulary.ids(thought + think.close + "\n\n" + body), prompt, ())
    assert (content, reasoning) == (body, thought.strip())


@pytest.mark.parametrize(("name", "kind"), [pair for pair in THINKERS if pair[1] in ("control", "letters")])
def test_random_thoughts_end_in_the_form(made: Any, name: str, kind: str) -> None:
    rng = random.Random()
    vocabulary = made(ChatFormat("hermes", name), kind)
    think = REASONING_PARSERS[name]
    for prompt in (think.open, think.close, *(() if think.always else ("x",))):
        for calls in ((), CALLS):
            ids = vocabulary.walk(vocabulary.grammar(prompt, SCHEMA, calls), rng)
            if ids is None:
                continue
            content, reasoning, found = vocabulary.said(ids, prompt, calls)
            for call in found:
                check(*call)
            if not found:
                check("get_weather", content)
            if prompt == think.close:
                assert reasoning == ""


def test_a_thought_holds_no_call_of_another_form(made: Any) -> None:
    for kind in KINDS:
        vocabulary = made(ChatFormat("hermes", "qwen3"), kind)
        grammar = vocabulary.grammar("<think>", calls=CALLS)
        call = '<tool_call>{"name": "get_weather", "arguments": %s}</tool_call>'
        assert vocabulary.passes(grammar, f"so</think>\n\n{call % ONE}")
        assert vocabulary.passes(grammar, "so</think>\n\nText.")
        assert not vocabulary.passes(grammar, f"so {call % '{}'}</think>Text.")
        assert not vocabulary.passes(grammar, f"so {call % '{}'}")


def test_a_thought_may_be_about_json(made: Any) -> None:
    """Of a model whose calls have no marker."""
    vocabulary = made(ChatFormat("llama3_json", "deepseek_r1"))
    grammar = vocabulary.grammar("<think>", calls=CALLS)
    assert vocabulary.passes(grammar, 'maybe {"name": 5}?</think>\n\n{"name": "stop", "parameters": {}}')
    assert vocabulary.passes(grammar, 'maybe</think>\n\n{"stop": 5}')
    assert not vocabulary.passes(grammar, 'maybe</think>\n\n{"name": "stop", "parameters": 5}')


def test_which_tools_an_answer_may_call() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "abc"]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tools[2], tools[0]]}}
    some = OfferedTools.of(tools, allowed)
    assert some.names == {"a", "c"}
    assert (some.must_call, some.binding, some.several) == (False, False, True)
    assert [call.name for call in some.calls] == ["a", "c"]
    assert some.path(1) == "tools[2].function.parameters"
    allowed["allowed_tools"]["mode"] = "required"  # type: ignore[index]
    forced = OfferedTools.of(tools, allowed, False)
    assert (forced.must_call, forced.several, forced.names) == (True, False, {"a", "c"})
    named = OfferedTools.of(tools, tools[1])
    assert (named.must_call, named.several, named.names) == (True, False, {"a", "b", "c"})
    assert OfferedTools.of(tools, "required").several
    for wrong, field in (
        ({"mode": "auto", "tools": [{"type": "function", "function": {"name": "d"}}]}, "tools[0].function.name"),
        ({"mode": "auto", "tools": []}, ""),
        ({"mode": "none", "tools": [tools[0]]}, ""),
        ({"mode": "auto"}, ""),
    ):
        with pytest.raises(ToolsError) as caught:
            OfferedTools.of(tools, {"type": "allowed_tools", "allowed_tools": wrong})
        assert caught.value.param == "tool_choice" + (f".allowed_tools.{field}" if field else "")
