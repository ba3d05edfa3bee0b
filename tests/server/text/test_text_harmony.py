"""Harmony output: well-formed, malformed, and random, whole and in any chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yardmaster.server.text.harmony import Delta, HarmonyParser, is_harmony
from yardmaster.server.text.tokenizer import Tokenizer

TokenizerOf = Callable[[str], Tokenizer]
Message = tuple[str, str, str | None]


def merged(deltas: Iterable[Delta]) -> list[Message]:
    """(channel, text, recipient) of each message."""
    messages: dict[int, Message] = {}
    for delta in deltas:
        assert delta.text
        channel, text, recipient = messages.get(delta.message, (delta.channel, "", delta.recipient))
        assert (channel, recipient) == (delta.channel, delta.recipient)  # a message never changes its channel
        messages[delta.message] = (channel, text + delta.text, recipient)
    assert list(messages) == list(range(len(messages)))
    return list(messages.values())


def parse(tokenizer: Tokenizer, ids: list[int], step: int = 1 << 30) -> list[Message]:
    parser = HarmonyParser(tokenizer)
    deltas = [delta for at in range(0, len(ids), step) for delta in parser.feed(ids[at : at + step])]
    return merged([*deltas, *parser.finish()])


WELL_FORMED: dict[str, list[Message]] = {
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
    " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>": [
        ("commentary", "{}", "functions.f")
    ],
    "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant to=functions.f<|channel|>commentary json"
    "<|message|>{}<|call|>": [("commentary", "I will look.", None), ("commentary", "{}", "functions.f")],
    "<|channel|>analysis to=python code<|message|>1 + 1<|call|>": [("analysis", "1 + 1", "python")],
    "<|channel|>final<|message|>cut of": [("final", "cut of", None)],
    "<|channel|>final<|message|><|return|>": [],
    "<|channel|>final <|constrain|>json<|message|>{}<|return|>": [("final", "{}", None)],
    "": [],
}

MALFORMED: dict[str, list[Message]] = {
    "Just text.": [("final", "Just text.", None)],
    "final answer: 5": [("final", "final answer: 5", None)],
    "as": [("final", "as", None)],
    "<|message|>text<|end|>": [("final", "text", None)],
    "<|channel|>thoughts<|message|>text<|end|>": [("final", "text", None)],
    "<|channel|><|message|>text<|end|>": [("final", "text", None)],
    "<|channel|>analysis<|channel|>final<|message|>text": [("final", "text", None)],
    "<|channel|>analysis<|channel|><|message|>text": [("analysis", "text", None)],
    "<|channel|>analysis We need to think about it<|end|>": [("analysis", "We need to think about it", None)],
    "<|channel|>analysisWe need to think<|end|>": [("analysis", "We need to think", None)],
    "<|channel|>final\nHello there<|return|>": [("final", "Hello there", None)],
    "<|channel|>final Hi<|return|>": [("final", "Hi", None)],
    "<|channel|>commentary to=functions.f <|constrain|>json {}<|call|>": [("commentary", "{}", "functions.f")],
    "<|channel|>analysis<|message|>a<|channel|>final<|message|>b": [("analysis", "a", None), ("final", "b", None)],
    "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b": [
        ("analysis", "a", None),
        ("final", "b", None),
    ],
    "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b": [
        ("analysis", "a", None),
        ("final", "b", None),
    ],
    "<|channel|>analysis<|message|>a<|end|><|start|>assistantfinal<|message|>b": [
        ("analysis", "a", None),
        ("final", "b", None),
    ],
    "analysis<|message|>a<|end|>\n<|start|>assistant<|message|>b": [("analysis", "a", None), ("final", "b", None)],
    "<|channel|>to=functions.f<|message|>{}<|call|>": [("commentary", "{}", "functions.f")],
    "<|channel|>comment to=functions.f<|message|>{}<|call|>": [("commentary", "{}", "functions.f")],
    "<|channel|>final<|message|>a<|message|>b<|constrain|>c<|startoftext|>d": [("final", "abcd", None)],
    "<|start|>functions.f to=assistant<|channel|>commentary<|message|>made up<|end|>": [
        ("commentary", "made up", "assistant")
    ],
    "<|start|>assistant this is what I say<|end|>": [("final", "assistant this is what I say", None)],
    "<|end|><|end|><|return|>": [],
    "<|channel|>final<|message|>a<|return|>b": [("final", "a", None), ("final", "b", None)],
}


@pytest.mark.parametrize("text", [*WELL_FORMED, *MALFORMED])
def test_known_outputs(text: str, tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    expected = (WELL_FORMED | MALFORMED)[text]
    ids = tokenizer.encode_trusted(text)
    for step in (1 << 30, 1, 2, 3):
        assert parse(tokenizer, ids, step) == expected


def test_an_endless_header_is_text_at_last(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    for start in ("<|channel|>analysis", "<|channel|>", "<|start|>", "", "<|channel|>final<|constrain|>"):
        parser = HarmonyParser(tokenizer)
        parser.feed(tokenizer.encode_trusted(start))
        streamed = parser.feed(tokenizer.encode("x" * 400))
        assert sum(len(delta.text) for delta in streamed) > 100
        assert len(merged([*streamed, *parser.finish()])) == 1


def test_text_streams_at_once(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    parser = HarmonyParser(tokenizer)
    assert parser.feed(tokenizer.encode_trusted("<|channel|>analysis<|message|>")) == []
    assert parser.feed(tokenizer.encode("fox")) == [Delta("analysis", "fox")]
    half = [next(i for i in range(300) if tokenizer.token_bytes(i) == b"\xf0")]
    assert parser.feed(half) == []
    ids = tokenizer.encode_trusted("<|end|><|start|>assistant<|channel|>final<|message|>a")
    assert parser.feed(ids) == [Delta("analysis", "\ufffd"), Delta("final", "a", message=1)]
    assert parser.feed(half) == []
    assert parser.finish() == [Delta("final", "\ufffd", message=1)]


def test_any_tokens_in_any_chunks(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    words = ["analysis", "commentary", "final", " to=functions.f", "assistant", " json", "\n", "the fox", " ", "é"]
    part = st.one_of(
        st.sampled_from(sorted(tokenizer.special_texts)).map(tokenizer.encode_trusted),
        st.sampled_from(words).map(tokenizer.encode),
        st.lists(st.integers(-1, tokenizer.vocab_size + 2), max_size=3),
    )
    outputs = st.lists(part, max_size=14).map(lambda parts: [token for part in parts for token in part])

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(outputs, st.integers(1, 7))
    def check(ids: list[int], step: int) -> None:
        whole = parse(tokenizer, ids)
        assert parse(tokenizer, ids, step) == whole
        assert all(channel in ("analysis", "commentary", "final") for channel, _, _ in whole)

    check()


def test_no_body_text_is_lost(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("harmony")
    channels = st.sampled_from(["analysis", "commentary", "final"])
    bodies = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())
    recipients = st.sampled_from([None, "functions.f", "python"])

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(channels, bodies, recipients), max_size=5), st.booleans(), st.integers(1, 9))
    def check(messages: list[Message], early: bool, step: int) -> None:
        ids: list[int] = tokenizer.encode_trusted("<|start|>assistant")
        for channel, body, recipient in messages:
            to = f" to={recipient}" if recipient else ""
            ids += tokenizer.encode_trusted(f"{to}<|channel|>{channel}" if early else f"<|channel|>{channel}{to} ")
            ids += tokenizer.encode_trusted("<|message|>") + tokenizer.encode(body)
            ids += tokenizer.encode_trusted("<|end|><|start|>assistant")
        prompt = len(tokenizer.encode_trusted("<|start|>assistant"))
        assert parse(tokenizer, ids[prompt:-prompt] if messages else [], step) == messages

    check()


def test_detection(tokenizer_of: TokenizerOf) -> None:
    assert is_harmony(tokenizer_of("harmony"))
    assert not is_harmony(tokenizer_of("qwen"))
    parser = HarmonyParser(tokenizer_of("qwen"))  # without Harmony's tokens all is plain text
    assert merged([*parser.feed(tokenizer_of("qwen").encode("hi there")), *parser.finish()]) == [
        ("final", "hi there", None)
    ]
