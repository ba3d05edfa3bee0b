"""What of a conversation counts as its text, wherever in the body it stands: where it is encoded depends on that."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from yardmaster.server.http.prompt_text import harmony_texts, written
from yardmaster.server.http.service import LONG_TEXT, SHORT_TEXT
from yardmaster.tests.server.http.refusals import CHAT, HELLO, refused, send

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def call(arguments: str) -> dict[str, Any]:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    return {"role": "assistant", "tool_calls": calls}


def described(text: str) -> dict[str, Any]:
    return {"type": "function", "function": {**TOOL["function"], "description": text}}  # type: ignore[dict-item]


def schema(text: str) -> dict[str, Any]:
    properties = {text: {"type": "string", "enum": [text]}}
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}


PLACES = {
    "content": lambda text: {"messages": [{"role": "user", "content": text}]},
    "description": lambda text: {"tools": [described(text)]},
    "schema": lambda text: {"tools": [schema(text)]},
    "arguments": lambda text: {"messages": [*HELLO, call(text)]},
    "reasoning": lambda text: {"messages": [*HELLO, call("{}") | {"reasoning": text}]},
    "identity": lambda text: {"chat_template_kwargs": {"model_identity": text}},
    "cutoff": lambda text: {"chat_template_kwargs": {"knowledge_cutoff": text}},
}


class Chat:
    """The stage's, noting in which threads it encodes."""

    def __init__(self, chat: Any) -> None:
        self._chat = chat
        self.threads: list[threading.Thread] = []

    def encode(self, *arguments: Any, **options: Any) -> list[int]:
        self.threads.append(threading.current_thread())
        ids: list[int] = self._chat.encode(*arguments, **options)
        return ids


@pytest.mark.parametrize("place", PLACES)
def test_long_texts_are_encoded_in_a_thread(harmony: Any, place: str) -> None:
    harmony.chat = chat = Chat(harmony.chat)
    harmony.engine.max_model_len = 1 << 20
    for size, apart in ((10, False), (SHORT_TEXT + 1, True)):
        body = {"messages": HELLO, "max_tokens": 5} | PLACES[place]("x" * size)
        assert send(harmony.app(), "POST", CHAT, json=body).status_code == 200
        assert (chat.threads.pop() is not threading.main_thread()) == apart


@pytest.mark.parametrize("place", [place for place in PLACES if place != "schema"])
def test_hopeless_texts_are_not_encoded(harmony: Any, place: str) -> None:
    harmony.chat = chat = Chat(harmony.chat)
    text = "x" * (LONG_TEXT + harmony.max_model_len * harmony.service().longest_token)
    response = send(harmony.app(), "POST", CHAT, json={"messages": HELLO} | PLACES[place](text))
    refused(response, 400, "context_length_exceeded", "messages")
    assert chat.threads == []


def test_what_is_left_out_of_the_prompt_makes_nothing_hopeless(harmony: Any) -> None:
    old = {"role": "assistant", "content": "hello", "reasoning": "x" * 1_000_000}
    body = {"messages": [*HELLO, old, *HELLO]}
    assert send(harmony.app(), "POST", CHAT, json=body).status_code == 200


def test_every_certain_text_is_in_the_prompt(harmony: Any) -> None:
    turns = [
        {"role": "system", "content": "<system>"},
        {"role": "user", "content": "<user>"},
        {"role": "assistant", "content": "<answer>", "reasoning": "<stale>"},
        {"role": "developer", "content": "<developer>"},
        call("<arguments>") | {"content": "<preamble>", "reasoning_content": "<thought>", "reasoning": "<other>"},
        {"role": "tool", "tool_call_id": "a", "content": "<result>"},
        {"role": "user", "content": "", "tool_calls": call("<nobody's>")["tool_calls"]},
    ]
    variables = {"model_identity": "<identity>", "current_date": "<today>", "builtin_tools": []}
    texts = [text for text in harmony_texts(turns, [described("<a\nfunction>")], variables) if text]
    prompt = harmony.tokenizer.decode(harmony.chat.encode(turns, [described("<a\nfunction>")], **variables), False)
    for text in texts:
        assert text.replace("\n", "\n// ") in prompt
    assert {"<thought>", "<arguments>", "<identity>", "<a\nfunction>", "f"} <= set(texts)
    assert not {"<stale>", "<other>", "<nobody's>"} & set(texts)


def test_counting_ends_where_it_is_enough() -> None:
    assert written(["ab", {"c": ("d", 1, None)}, [], 7], 100) == 11
    looked: list[str] = []

    class Watched(str):
        def __len__(self) -> int:
            looked.append(self)
            return 50

    assert written([Watched("x")] * 1000, 100) >= 100
    assert len(looked) <= 3
