"""The other families' formats as the choice layer sees them: token ids in, content, reasoning, calls and counts out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from yardmaster.engine.messages import RequestOutput, Submit, TokenLogprob
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.http.choice import Choice, Piece
from yardmaster.server.http.splitter import PlainSplitter, Splitter
from yardmaster.server.http.text_splitter import TextSplitter, format_splitter
from yardmaster.server.text.formats.registry import ChatFormat
from yardmaster.server.text.tokenizer import Tokenizer

KIMI = [
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_argument_begin|>", "<|tool_call_end|>"),
]
FUNCTIONS = ("get_weather", "now")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich 🙂"}}\n</tool_call>'
QWEN = f'<think>\nHm é.\n</think>\n\nI look.\n{CALL}\n<tool_call>\n{{"name": "now"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Of bytes and some pairs. Qwen's markers are added tokens, Kimi's and Mistral's control tokens."""
    vocabulary = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("{", '"'), ('"', ":"), ("}", "}"), ("o", "o"), ("i", "n"), ("}", "Ċ"), ("n", "a")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    controls = ["<|im_start|>", "<|im_end|>", "[TOOL_CALLS]", "[ARGS]", *KIMI]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in controls])
    backend.add_tokens(
        [AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>", "</tool_call>")]
    )
    directory: Path = tmp_path_factory.mktemp("families")
    backend.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


Play = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def play(tokenizer: Tokenizer) -> Play:
    """What a client sees of `text`, which the engine gives in outputs of `size` tokens."""

    def of(
        text: str | list[int],
        tools: str | None = "hermes",
        reasoning: str | None = "qwen3",
        size: int = 1,
        prompt: str = "",
        functions: tuple[str, ...] = FUNCTIONS,
        parallel: bool = True,
        finish: str = "stop",
        splitter: Splitter | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        skip = params.get("skip_special_tokens", True)
        if splitter is None:
            format, ids = ChatFormat(tools, reasoning), tokenizer.encode_trusted(prompt)
            splitter = TextSplitter(tokenizer, format, ids, functions, parallel, skip)
        end = tokenizer.special_texts["<|im_end|>"]
        submit = Submit(request_id="r", prompt_token_ids=[1], params=SamplingParams(**params), eos_token_ids=(end,))
        choice = Choice(0, submit, splitter)
        ids = tokenizer.encode_trusted(text) if isinstance(text, str) else list(text)
        ids += [end] if finish == "stop" else []
        total = Piece()
        for at in range(0, len(ids), size):
            now = ids[at : at + size]
            logprobs = None
            if params.get("logprobs") is not None:
                logprobs = [TokenLogprob(token, -1.0, 1, []) for token in now]
            last = at + size >= len(ids)
            total.merge(
                choice.feed(
                    RequestOutput(
                        request_id="r", token_ids=now, finish_reason=finish if last else None, logprobs=logprobs
                    )
                )
            )
            if choice.finish_reason is not None:
                break
        return {
            "content": total.text,
            "reasoning": total.reasoning,
            "calls": [(call.name, call.arguments) for call in total.joined_calls],
            "ids": [call.id for call in total.joined_calls],
            "finish": total.finish_reason,
            "stop": total.stop_reason,
            "completion_tokens": total.completion_tokens,
            "reasoning_tokens": total.reasoning_tokens,
            "logprobs": "".join(tokenizer.token_text(each.token_id) for each in total.logprobs),
            "deltas": total.calls,
        }

    return of


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_reasoning_content_and_calls(play: Play, tokenizer: Tokenizer, size: int) -> None:
    answer = play(QWEN, size=size)
    assert answer["content"] == "I look.\n"
    assert answer["reasoning"] == "Hm é."
    assert answer["calls"] == [("get_weather", '{"city": "Zürich 🙂"}'), ("now", "{}")]
    assert answer["finish"] == "tool_calls"
    assert answer["completion_tokens"] == len(tokenizer.encode(QWEN)) + 1
    assert answer["reasoning_tokens"] == len(tokenizer.encode("Hm é."))


def test_deltas_have_an_id_and_a_name_once(play: Play) -> None:
    deltas = play(QWEN)["deltas"]
    assert [delta.index for delta in deltas] == sorted(delta.index for delta in deltas)
    heads = [delta for delta in deltas if delta.name is not None or delta.id is not None]
    assert [(head.index, head.name, head.arguments) for head in heads] == [(0, "get_weather", ""), (1, "now", "")]
    assert len({head.id for head in heads}) == 2
    assert all(head.id.startswith("call_") for head in heads)
    assert len(deltas) > 12  # the arguments come as they are written


def test_logprobs_are_those_of_the_content(play: Play, tokenizer: Tokenizer) -> None:
    assert play(QWEN, logprobs=0)["logprobs"] == "I look.\n"
    text = "a <tool_call> is no call é <"
    answer = play(text, logprobs=0)
    assert answer["content"] == text
    assert answer["logprobs"].encode("utf-8", "replace").count(b"\xef\xbf\xbd") == 2  # the two bytes of é
    assert answer["logprobs"].startswith("a <tool_call> is no call ")


def test_one_call_at_a_time(play: Play) -> None:
    for size in (1, 5, 1000):
        answer = play(QWEN, size=size, parallel=False)
        assert answer["calls"] == [("get_weather", '{"city": "Zürich 🙂"}')]
        assert answer["finish"] == "tool_calls"


def test_a_call_that_is_cut_off(play: Play) -> None:
    cut = QWEN[: QWEN.index("rich")]
    answer = play(cut, finish="length")
    assert answer["calls"] == [("get_weather", '{"city": "Zü')]
    assert answer["finish"] == "length"


def test_the_prompt_begins_the_reasoning(play: Play) -> None:
    prompt = "<|im_start|>assistant\n<think>\n"
    answer = play("Hm.\n</think>\n\nYes.", prompt=prompt)
    assert (answer["reasoning"], answer["content"], answer["finish"]) == ("Hm.", "Yes.", "stop")
    answer = play("Yes.", prompt=f"{prompt}\n</think>\n\n")
    assert (answer["reasoning"], answer["content"]) == ("", "Yes.")


def test_control_tokens_of_a_family(play: Play) -> None:
    section = "".join(
        f"<|tool_call_begin|>functions.now:{place}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
        for place in (4, 4, 5)
    )
    text = f"Hm.<|tool_calls_section_begin|>{section}<|tool_calls_section_end|>"
    for size in (1, 4, 1000):
        for skip in (True, False):
            answer = play(text, "kimi_k2", None, size, skip_special_tokens=skip)
            assert answer["content"] == "Hm."
            assert answer["calls"] == [("now", "{}")] * 3
            assert answer["ids"] == ["functions.now:4", "functions.now:1", "functions.now:5"]
    answer = play('[TOOL_CALLS]now[ARGS]{"a": 1}', "mistral", None)
    assert answer["calls"] == [("now", '{"a": 1}')]
    assert len(answer["ids"][0]) == 9


def test_letters_of_a_control_token_are_letters(play: Play, tokenizer: Tokenizer) -> None:
    text = '[TOOL_CALLS]now[ARGS]{"a": 1}'
    answer = play(tokenizer.encode(text), "mistral", None)
    assert (answer["content"], answer["calls"], answer["finish"]) == (text, [], "stop")


def test_half_a_character_before_a_control_token(play: Play, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("é")[:1] + tokenizer.encode_trusted("[TOOL_CALLS]now[ARGS]{}")
    answer = play(ids, "mistral", None)
    assert (answer["content"], answer["calls"]) == ("\ufffd", [("now", "{}")])


def test_a_stop_string_ends_the_content_alone(play: Play) -> None:
    answer = play(QWEN, stop=("look", "Hm", "city"))
    assert answer["content"] == "I "
    assert answer["reasoning"] == "Hm é."
    assert (answer["calls"], answer["finish"], answer["stop"]) == ([], "stop", "look")
    answer = play("a\nb", stop=("\n",))
    assert (answer["content"], answer["completion_tokens"]) == ("a", 2)


@pytest.mark.parametrize("skip", [True, False])
def test_without_tools_and_reasoning_it_is_the_plain_one(play: Play, tokenizer: Tokenizer, skip: bool) -> None:
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=20), st.sampled_from(["stop", "length"]))
    def check(ids: list[int], finish: str) -> None:
        plain = PlainSplitter(tokenizer, skip)
        expected = play(ids, splitter=plain, finish=finish, skip_special_tokens=skip)
        assert play(ids, None, None, finish=finish, skip_special_tokens=skip) == expected

    check()


@pytest.mark.parametrize("tools", ["hermes", "mistral", "kimi_k2"])
def test_any_tokens_are_an_answer_and_the_same_in_any_chunks(play: Play, tokenizer: Tokenizer, tools: str) -> None:
    pieces = st.sampled_from([*range(0, 260, 7), *range(260, tokenizer.vocab_size)]).map(lambda token: [token])
    words = st.sampled_from(['{"name": "now", "arguments": {"a": 1}}', "now", "functions.now:0", "{}", "é", "\n"])
    tokens = st.lists(st.one_of(pieces, words.map(tokenizer.encode)), max_size=16)

    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(tokens, st.integers(1, 6), st.sampled_from(["stop", "length"]), st.booleans())
    def check(parts: list[list[int]], size: int, finish: str, skip: bool) -> None:
        ids = [token for part in parts for token in part]
        options = {"finish": finish, "skip_special_tokens": skip, "logprobs": 0}
        whole = play(ids, tools, "qwen3", 1000, **options)
        again = play(ids, tools, "qwen3", size, **options)
        for key in ("content", "reasoning", "calls", "finish", "completion_tokens", "reasoning_tokens", "logprobs"):
            assert whole[key] == again[key]
        assert whole["reasoning_tokens"] <= whole["completion_tokens"] == len(ids) + (finish == "stop")
        json.dumps(whole["calls"], ensure_ascii=False).encode()

    check()


def test_the_cheapest_splitter_that_does(tokenizer: Tokenizer) -> None:
    hermes, qwen = ChatFormat("hermes"), ChatFormat("hermes", "qwen3")
    assert isinstance(format_splitter(tokenizer, ChatFormat(), functions=FUNCTIONS), PlainSplitter)
    assert isinstance(format_splitter(tokenizer, hermes), PlainSplitter)
    assert isinstance(format_splitter(tokenizer, hermes, functions=FUNCTIONS), TextSplitter)
    assert isinstance(format_splitter(tokenizer, qwen), TextSplitter)
