"""The parser of Harmony: what is well-formed, each malformation, and what holds for any tokens in any chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.text.detokenizer import Detokenizer
from yardmaster.server.text.harmony.parser import (
    REPAIRS,
    Event,
    HarmonyParser,
    MessageEnd,
    MessageStart,
    TextDelta,
    primer,
)
from yardmaster.server.text.harmony.tokens import HarmonyTokens, end_tokens, is_harmony
from yardmaster.server.text.tokenizer import Tokenizer

TokenizerOf = Callable[[str], Tokenizer]
Said = tuple[str, str, str | None]  # channel, text, recipient
QUICK = settings(max_examples=300, suppress_health_check=list(HealthCheck))


def messages(events: Iterable[Event]) -> list[tuple[MessageStart, str, MessageEnd]]:
    """Checks the grammar: start, deltas, end; no delta is empty."""
    found: list[Any] = []
    for event in events:
        match event:
            case MessageStart():
                assert not found or len(found[-1]) == 3
                assert event.channel in ("analysis", "commentary", "final")
                assert event.role in ("system", "developer", "user", "assistant", "tool")
                found.append([event, ""])
            case TextDelta(text):
                assert text
                assert len(found[-1]) == 2
                found[-1][1] += text
            case MessageEnd():
                assert len(found[-1]) == 2
                found[-1].append(event)
    assert not found or len(found[-1]) == 3
    return [tuple(message) for message in found]


def parse(
    tokenizer: Tokenizer, ids: list[int], step: int = 1 << 30, repairs: list[str] | None = None
) -> list[tuple[MessageStart, str, MessageEnd]]:
    parser = HarmonyParser(tokenizer, None if repairs is None else repairs.append)
    events = [event for at in range(0, len(ids), step) for event in parser.feed(ids[at : at + step])]
    return messages([*events, *parser.finish()])


def said(tokenizer: Tokenizer, text: str, step: int = 1 << 30) -> tuple[list[Said], list[str]]:
    """What was said, messages without a word left out, and the repairs."""
    repairs: list[str] = []
    found = parse(tokenizer, tokenizer.encode_trusted(text), step, repairs)
    return [(start.channel, words, start.recipient) for start, words, _ in found if words], repairs


CALL = ("commentary", "{}", "functions.f")
AB: list[Said] = [("analysis", "a", None), ("final", "b", None)]

WELL_FORMED: dict[str, list[Said]] = {
    "": [],
    "<|channel|>final<|message|>Hello 你好 🙂<|return|>": [("final", "Hello 你好 🙂", None)],
    "<|channel|>analysis<|message|>hm, to=x\n\n<|end|><|start|>assistant<|channel|>final<|message|> So.<|return|>": [
        ("analysis", "hm, to=x\n\n", None),
        ("final", " So.", None),
    ],
    "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "Paris"}<|call|>': [
        ("analysis", "a", None),
        ("commentary", '{"city": "Paris"}', "functions.get_weather"),
    ],
    " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>": [CALL],
    " to=functions.f<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>": [CALL],
    "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>": [CALL],
    "<|channel|>commentary to=functions.f\n<|constrain|>json\n<|message|>{}<|call|>": [CALL],
    "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant to=functions.f<|channel|>commentary json"
    "<|message|>{}<|call|>": [("commentary", "I will look.", None), CALL],
    "<|channel|>analysis to=python code<|message|>1 + 1<|call|>": [("analysis", "1 + 1", "python")],
    "<|channel|>commentary to=functions.web-browsing<|message|>{}": [("commentary", "{}", "functions.web-browsing")],
    "<|channel|>final<|message|>cut of": [("final", "cut of", None)],
    "<|channel|>final<|message|><|return|>": [],
    "<|channel|>final <|constrain|>json<|message|>{}<|return|>": [("final", "{}", None)],
    "<|channel|>final<|message|>a<|end|>\n\n<|start|>assistant<|channel|>final<|message|>b": [
        ("final", "a", None),
        ("final", "b", None),
    ],
}

MALFORMED: list[tuple[str, list[Said], list[str]]] = [
    # text without a header
    ("Just text.", [("final", "Just text.", None)], ["text_before_header"]),
    ("\n\n text", [("final", "\n\n text", None)], ["text_before_header"]),
    ("final answer: 5", [("final", "final answer: 5", None)], ["text_before_header"]),
    ("analysis is fun", [("final", "analysis is fun", None)], ["text_before_header"]),
    ("as", [("final", "as", None)], ["text_before_header"]),
    ("Hi <|channel|>final<|message|>b", [("final", "Hi ", None), ("final", "b", None)], []),
    ("<|channel|>analysis<|message|>a<|end|>b<|return|>", AB, ["missing_start", "missing_message", "missing_channel"]),
    # missing and doubled markers
    ("<|message|>text<|end|>", [("final", "text", None)], ["missing_channel"]),
    ("<|constrain|>json<|message|>{}", [("final", "{}", None)], ["missing_channel"]),
    ("<|channel|><|message|>text<|end|>", [("final", "text", None)], ["missing_channel"]),
    ("<|channel|>analysis<|channel|>final<|message|>x", [("final", "x", None)], ["doubled_marker"]),
    ("<|channel|>analysis<|channel|><|message|>x", [("analysis", "x", None)], ["doubled_marker"]),
    ("<|channel|>f<|channel|>commentary to=functions.f<|message|>{}<|call|>", [CALL], ["doubled_marker"]),
    ("<|channel|>commentary to=functions.f<|channel|>commentary json<|message|>{}", [CALL], ["doubled_marker"]),
    ("<|start|><|start|>assistant<|channel|>final<|message|>x", [("final", "x", None)], ["doubled_marker"]),
    ("<|channel|>analysis<|start|>assistant<|channel|>final<|message|>x", [("final", "x", None)], ["doubled_marker"]),
    ("<|channel|>final<|message|><|message|>x", [("final", "x", None)], ["doubled_marker"]),
    ("<|channel|>final<|constrain|><|constrain|>json<|message|>x", [("final", "x", None)], ["doubled_marker"]),
    ("assistant<|channel|>final<|message|>x", [("final", "x", None)], []),
    ("<|start|>assistantassistant<|channel|>final<|message|>x", [("final", "x", None)], []),
    ("<|channel|>analysis We need to think<|end|>", [("analysis", "We need to think", None)], ["missing_message"]),
    ("<|channel|>analysisWe need to think<|end|>", [("analysis", "We need to think", None)], ["missing_message"]),
    ("<|channel|>final\nHello there<|return|>", [("final", "Hello there", None)], ["missing_message"]),
    ("<|channel|>final Hi<|return|>", [("final", "Hi", None)], ["missing_message"]),
    ("<|channel|>final Hi", [("final", "Hi", None)], ["missing_message"]),
    ("<|channel|>commentary to=functions.f <|constrain|>json {}<|call|>", [CALL], ["missing_message"]),
    ("<|channel|>commentary to=functions.f json{}<|call|>", [CALL], ["missing_message"]),
    ("<|channel|>commentary to=functions.f{}<|call|>", [CALL], ["missing_message"]),
    ("<|channel|>commentary to=functions.f<|call|>", [], ["missing_message"]),
    (
        "<|channel|>commentary to=functions.f<|constrain|>do: it<|end|><|start|>assistant<|channel|>final<|message|>x",
        [("commentary", "do: it", "functions.f"), ("final", "x", None)],
        ["missing_message"],
    ),
    ("<|channel|>We have to do<|end|>", [("final", "We have to do", None)], ["missing_message", "missing_channel"]),
    ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", AB, ["missing_end"]),
    ("<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b", AB, ["missing_end"]),
    ("<|channel|>analysis a b c<|start|>assistant<|channel|>final<|message|>b",
     [("analysis", "a b c", None), ("final", "b", None)], ["missing_message", "missing_end"]),
    ("<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b", AB, ["missing_start"]),
    ("<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b", AB, ["missing_start"]),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistantfinal<|message|>b", AB, ["missing_channel"]),
    ("analysis<|message|>a<|end|>\n<|start|>assistant<|message|>b", AB, ["missing_channel", "missing_channel"]),
    ("<|start|>assistant this I say<|end|>", [("final", "this I say", None)], ["missing_message", "missing_channel"]),
    # words of a header
    ("<|channel|>to=functions.f<|message|>{}<|call|>", [CALL], ["missing_channel"]),
    ("<|channel|>comment to=functions.f<|message|>{}<|call|>", [CALL], ["unknown_channel"]),
    ("<|channel|>comment to=functions.f{}<|call|>", [CALL], ["missing_message", "unknown_channel"]),
    ("<|channel|>thoughts<|message|>x<|end|>", [("analysis", "x", None)], ["unknown_channel"]),
    ("<|channel|>answer<|message|>x<|end|>", [("final", "x", None)], ["unknown_channel"]),
    ("<|channel|>\u2013\u2013commentary<|message|>x<|end|>", [("commentary", "x", None)], ["odd_header"]),
    ("<|channel|>commentary final<|message|>x", [("final", "x", None)], ["odd_header"]),
    ("<|channel|>commentary functions.f json<|message|>{}<|call|>", [CALL], ["odd_header"]),
    ("<|channel|>commentary json to=functions.f<|message|>{}<|call|>", [CALL], []),
    ("<|channel|>commentary to=functions.f of my own<|message|>{}<|call|>", [CALL], ["odd_header"]),
    ("<|start|>critic<|channel|>final<|message|>x<|end|>", [("final", "x", None)], ["unknown_role"]),
    ("<|start|>final<|message|>x<|end|>", [("final", "x", None)], ["missing_channel"]),
    # others that the model speaks for
    (
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>made up<|end|>",
        [("commentary", "made up", "assistant")],
        ["foreign_role"],
    ),
    ("<|start|>user<|message|>x<|end|>", [("final", "x", None)], ["missing_channel", "foreign_role"]),
    # control tokens in a text
    ("<|channel|>final<|message|>a<|constrain|>c<|startoftext|>d", [("final", "acd", None)], ["stray_token"] * 2),
    ("<|channel|>final<|message|>use <|channel|> to mark.<|end|>", [("final", "use  to mark.", None)], ["stray_token"]),
    ('<|channel|>commentary to=functions.f<|message|>{"<|channel|>x y z": 1}<|call|>',
     [("commentary", '{"x y z": 1}', "functions.f")], ["stray_token"]),
    ("<|channel|>final<|message|>a<|channel|><|end|>", [("final", "a", None)], ["stray_token"]),
    ("<|end|><|end|><|return|>", [], ["stray_token"] * 2),
    (
        "<|channel|>final<|message|>a<|return|>b",
        [("final", "a", None), ("final", "b", None)],
        ["missing_start", "missing_message", "missing_channel"],
    ),
    # the output ends within a header
    *(
        (text, [], ["truncated_header"])
        for text in (
            *("<|channel|>comm", "<|channel|>final<|constrain|>js", "<|start|>assis", "<|channel|>commentary to"),
            *("<|channel|>commentary to=functions.f of my", "<|channel|>final to=functions.f json"),
            *("<|channel|>commentary to=functions.get_wea", "<|channel|>analysis to=python co", "<|start|>functions."),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("text", WELL_FORMED)
@pytest.mark.parametrize("step", [1 << 30, 1, 2, 3])
def test_well_formed(text: str, step: int, tokenizer_of: TokenizerOf) -> None:
    assert said(tokenizer_of("harmony"), text, step) == (WELL_FORMED[text], [])


@pytest.mark.parametrize(("text", "expected", "repairs"), MALFORMED, ids=[text for text, _, _ in MALFORMED])
def test_malformed(text: str, expected: list[Said], repairs: list[str], tokenizer_of: TokenizerOf) -> None:
    for step in (1 << 30, 1, 2, 3):
        found, told = said(tokenizer_of("harmony"), text, step)
        assert found == expected
        assert told == repairs or not repairs
        assert set(told) <= set(REPAIRS)


def test_headers_are_told_whole(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    ids = tokenizer.encode_trusted(
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|end|>"
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>1<|end|>"
        "<|start|>assistant<|channel|>analysis code<|message|>x<|return|><|start|>assistant<|channel|>final<|message|>y"
    )
    assert [(start, end.by) for start, _, end in parse(tokenizer, ids)] == [
        (
            MessageStart(
                "commentary", "assistant", None, "functions.f", "<|constrain|>json", "commentary to=functions.f json"
            ),
            "end",
        ),
        (
            MessageStart("commentary", "tool", "functions.f", "assistant", None, "functions.f to=assistantcommentary"),
            "end",
        ),
        (MessageStart("analysis", "assistant", None, None, "code", "assistantanalysis code"), "return"),
        (MessageStart("final", "assistant", None, None, None, "assistantfinal"), None),
    ]


def test_an_endless_header_is_text_at_last(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    parser = HarmonyParser(tokenizer)
    streamed = parser.feed(tokenizer.encode_trusted("<|channel|>commentary to=functions.f" + " word" * 100))
    assert sum(len(event.text) for event in streamed if isinstance(event, TextDelta)) > 200
    parser = HarmonyParser(tokenizer)
    streamed = parser.feed(tokenizer.encode_trusted('<|channel|>commentary to=functions.f my own {"a"'))
    assert streamed[-1] == TextDelta('my own {"a"')
    for start in ("<|channel|>analysis", "<|channel|>", "<|start|>", "", "<|channel|>final<|constrain|>"):
        parser = HarmonyParser(tokenizer)
        parser.feed(tokenizer.encode_trusted(start))
        streamed = parser.feed(tokenizer.encode("x" * 400))
        assert sum(len(event.text) for event in streamed if isinstance(event, TextDelta)) > 100
        assert len(messages([*streamed, *parser.finish()])) == 1


def test_text_streams_at_once(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    parser = HarmonyParser(tokenizer)
    assert parser.feed(tokenizer.encode_trusted("<|channel|>analysis")) == []
    assert parser.feed(tokenizer.encode_trusted("<|message|>")) == [MessageStart("analysis", header="analysis")]
    assert parser.feed(tokenizer.encode("fox")) == [TextDelta("fox")]
    half = [next(i for i in range(300) if tokenizer.token_bytes(i) == b"\xf0")]
    assert parser.feed(half) == []
    ids = tokenizer.encode_trusted("<|end|><|start|>assistant<|channel|>final<|message|>a")
    assert parser.feed(ids) == [
        TextDelta("\ufffd"),
        MessageEnd("end"),
        MessageStart("final", header="assistantfinal"),
        TextDelta("a"),
    ]
    assert parser.feed(half) == []
    assert parser.finish() == [TextDelta("\ufffd"), MessageEnd(None)]


def outputs(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Anything: control tokens and the words of headers above all."""
    words = [
        *("analysis", "commentary", "final", " to=functions.f", "assistant", " json", "\n", "the fox", " ", "é"),
        *(
            "thoughts",
            "{",
            '{"a": 1}',
            "functions.g",
            "user",
            "tool",
            " code",
            "assistantfinal",
            "to=",
            "to",
            " t",
            "-",
        ),
    ]
    part = st.one_of(
        st.sampled_from(sorted(tokenizer.special_texts)).map(tokenizer.encode_trusted),
        st.sampled_from(["<|channel|>", "<|message|>", "<|start|>", "<|end|>"]).map(tokenizer.encode_trusted),
        st.sampled_from(words).map(tokenizer.encode),
        st.lists(st.integers(-1, tokenizer.vocab_size + 2), max_size=3),
    )
    return st.lists(part, max_size=14).map(lambda parts: [token for part in parts for token in part])


def test_any_tokens_in_any_chunks(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")

    @QUICK
    @given(outputs(tokenizer))
    def check(ids: list[int]) -> None:
        told: list[str] = []
        whole = parse(tokenizer, ids, repairs=told)
        for step in range(1, len(ids)):
            again: list[str] = []
            assert parse(tokenizer, ids, step, again) == whole
            assert again == told

    check()


def test_no_text_is_lost(tokenizer_of: TokenizerOf) -> None:
    """Headers and texts joined are all that was said, but for a header that the end cut off."""
    tokenizer = tokenizer_of("harmony")

    @QUICK
    @given(outputs(tokenizer))
    def check(ids: list[int]) -> None:
        everything = ""
        detokenizer = Detokenizer(tokenizer)
        for token in ids:  # a control token ends half a character
            special = token in tokenizer.special_ids
            everything += detokenizer.finish() if special else detokenizer.feed([token])
        everything += detokenizer.finish()
        told: list[str] = []
        found = "".join(start.header + text for start, text, _ in parse(tokenizer, ids, repairs=told))
        if found != everything:
            assert everything.startswith(found)
            rest = everything[len(found) :]
            assert not rest.strip() or "truncated_header" in told

    check()


def test_what_is_well_formed_comes_back_as_it_is(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    channels = st.sampled_from(["analysis", "commentary", "final"])
    bodies = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())
    recipients = st.sampled_from([None, "functions.f", "python"])

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(channels, bodies, recipients), max_size=5), st.booleans(), st.integers(1, 9))
    def check(expected: list[Said], early: bool, step: int) -> None:
        prompt = tokenizer.encode_trusted("<|start|>assistant")
        ids = list(prompt)
        for channel, body, recipient in expected:
            to = f" to={recipient}" if recipient else ""
            ids += tokenizer.encode_trusted(f"{to}<|channel|>{channel}" if early else f"<|channel|>{channel}{to} ")
            ids += tokenizer.encode_trusted("<|message|>") + tokenizer.encode(body)
            ids += tokenizer.encode_trusted("<|end|><|start|>assistant")
        told: list[str] = []
        found = parse(tokenizer, ids[len(prompt) : -len(prompt)] if expected else [], step, told)
        assert [(start.channel, text, start.recipient) for start, text, _ in found] == expected
        assert told == []

    check()


def test_cut_off_at_any_token(tokenizer_of: TokenizerOf) -> None:
    """Each beginning of an output says a beginning of what the whole says, and never a cut-off name."""
    tokenizer = tokenizer_of("harmony")
    for text in WELL_FORMED:
        ids = tokenizer.encode_trusted(text)
        whole = parse(tokenizer, ids)
        for size in range(len(ids)):
            part = parse(tokenizer, ids[:size])
            assert len(part) <= len(whole)
            for (start, words, _), (true_start, true_words, _) in zip(part, whole, strict=False):
                assert start == true_start
                assert true_words.startswith(words.rstrip("\ufffd"))


def test_what_the_prompt_holds(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    encode = tokenizer.encode_trusted
    held = primer(
        tokenizer, encode("<|start|>user<|message|>q<|end|><|start|>assistant<|channel|>analysis<|message|>I")
    )
    assert held == encode("<|channel|>analysis<|message|>I")
    assert primer(tokenizer, encode("<|start|>user<|message|>q<|end|><|start|>assistant")) == []
    assert primer(tokenizer, encode("<|start|>user<|message|>q")) == []
    assert primer(tokenizer, encode("no message at all")) == []


def test_detection(tokenizer_of: TokenizerOf) -> None:
    harmony, qwen = tokenizer_of("harmony"), tokenizer_of("qwen")
    assert is_harmony(harmony)
    assert not is_harmony(qwen)
    special = harmony.special_texts
    assert end_tokens(harmony, [5, special["<|return|>"]]) == (5, special["<|return|>"], special["<|call|>"])
    assert end_tokens(qwen, (7,)) == (7,)
    assert HarmonyTokens.of(harmony).start == harmony.special_texts["<|start|>"]
    with pytest.raises(ValueError, match="does not speak Harmony"):
        HarmonyTokens.of(qwen)
    found = parse(qwen, qwen.encode_trusted("hi <|im_end|>there"))  # without Harmony's tokens all is text
    assert [(start.channel, text) for start, text, _ in found] == [("final", "hi there")]
