"""A front end with an engine that plays what a test tells it, and a small tokenizer of gpt-oss' kind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import uvicorn
from fastapi import FastAPI
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.engine.messages import EngineStats, RankReport, RequestOutput, Submit
from yardmaster.server.http.app import create_app
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.http.run import uvicorn_config
from yardmaster.server.http.service import Service
from yardmaster.server.metrics import Metrics
from yardmaster.server.text.formats.registry import ChatFormat
from yardmaster.server.text.grammar_book import GrammarBook
from yardmaster.server.text.harmony.conversation import HarmonyChat
from yardmaster.server.text.harmony.encoder import HarmonyEncoder
from yardmaster.server.text.template import ChatTemplate
from yardmaster.server.text.tokenizer import Tokenizer

CONTROL = (
    *("<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>"),
    *("<|message|>", "<|call|>"),
)
TEMPLATE = """{%- if reasoning_effort %}<|start|>system<|message|>Reasoning: {{ reasoning_effort }}<|end|>{% endif %}
{%- for message in messages %}
{%- set last = message.role == "assistant" and loop.last %}
{%- set channel = "<|channel|>final" if message.role == "assistant" else "" %}
{{- "<|start|>" + message.role + channel + "<|message|>" + (message.content or "") + "<|end|>" }}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "
MAX_MODEL_LEN = 4096
TODAY = date(2026, 11, 21)

# A number waits for so many seconds; an exception is raised while the outputs are iterated.
Script = Callable[[Submit], Iterable[RequestOutput | float | Exception]]


class ScriptedEngine:
    """An EngineClient. `script(submit)` says what a request gets; `refuse` is raised instead of taking it in."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.refuse: Exception | None = None
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []
        self.dead: str | None = None
        self.ready = True
        self.max_model_len = MAX_MODEL_LEN
        self.stats: list[Callable[[int, EngineStats], None]] = []
        self.reports: list[Callable[[RankReport], None]] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def submit(self, request: Submit) -> AsyncIterator[RequestOutput]:
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append(request)
        return self._play(request)

    async def _play(self, request: Submit) -> AsyncIterator[RequestOutput]:
        for act in self.script(request):
            if isinstance(act, Exception):
                raise act
            if isinstance(act, RequestOutput):
                await asyncio.sleep(0)
                yield act
            else:
                await asyncio.sleep(act)

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def on_stats(self, listener: Callable[[int, EngineStats], None]) -> None:
        self.stats.append(listener)

    def on_report(self, listener: Callable[[RankReport], None]) -> None:
        self.reports.append(listener)


class Stage:
    """What a test works with: the engine's scripts in terms of text, and the application around it."""

    EngineDead = EngineDead
    EngineOverloaded = EngineOverloaded
    max_model_len = MAX_MODEL_LEN

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, harmony: bool) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.chat = HarmonyChat(HarmonyEncoder(tokenizer)) if harmony else None
        self.eos = tokenizer.special_texts["<|return|>" if harmony else "<|endoftext|>"]
        self.engine = ScriptedEngine(self.say("hello"))
        self.metrics = Metrics("test-model", "0")
        self.metrics.watch(self.engine)
        self.grammars = GrammarBook()  # without a process to start for each test

    def ids(self, text: str) -> list[int]:
        """Token ids with control tokens recognised."""
        return self.tokenizer.encode_trusted(text)

    def say(self, text: str, finish: str = "stop", size: int = 1, pause: float = 0.0, **last: Any) -> Script:
        """Play `text`, `size` tokens an output; an end token follows when `finish` is "stop"."""

        def script(submit: Submit) -> Iterator[RequestOutput | float]:
            ids = self.ids(text) + ([self.eos] if finish == "stop" and "stop_reason" not in last else [])
            for at in range(0, len(ids), size):
                if pause:
                    yield pause
                end = at + size >= len(ids)
                yield RequestOutput(
                    request_id=submit.request_id,
                    token_ids=ids[at : at + size],
                    finish_reason=finish if end else None,  # type: ignore[arg-type]
                    queue_seconds=0.25 if at == 0 else None,
                    **(last if end else {}),
                )

        return script

    def service(self, defaults: dict[str, Any] | None = None, format: ChatFormat | None = None) -> Service:
        return Service(
            client=self.engine,
            tokenizer=self.tokenizer,
            template=None if self.chat is not None else self.template,
            chat=self.chat,
            today=lambda: TODAY,
            metrics=self.metrics,
            vocab_size=self.tokenizer.vocab_size,
            eos_token_ids=(self.eos,),
            defaults=defaults or {},
            format=format or ChatFormat(),
            grammars=self.grammars,
        )

    def app(self, **config: Any) -> FastAPI:
        service = self.service(config.pop("defaults", None), config.pop("format", None))
        self.config = HttpConfig(served_model_names=config.pop("names", ("test-model", "org/alias")), **config)
        return create_app(service, self.config)


def byte_level(directory: Path, control: tuple[str, ...]) -> Tokenizer:
    """Every byte is a token, some pairs are, and the control tokens come last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: place for place, character in enumerate(alphabet)}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("i", "n"), ("a", "n"), ("t", "h")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    directory.mkdir(exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


@pytest.fixture(scope="session")
def harmony_text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tokenizer, ChatTemplate]]:
    tokenizer = byte_level(tmp_path_factory.mktemp("harmony"), CONTROL)
    template = ChatTemplate(TEMPLATE, tokenizer)
    yield tokenizer, template
    template.close()


@pytest.fixture(scope="session")
def plain_text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tokenizer, ChatTemplate]]:
    tokenizer = byte_level(tmp_path_factory.mktemp("plain"), ("<|endoftext|>",))
    template = ChatTemplate(PLAIN_TEMPLATE, tokenizer)
    yield tokenizer, template
    template.close()


@pytest.fixture
def harmony(harmony_text: tuple[Tokenizer, ChatTemplate]) -> Stage:
    """A checkpoint that speaks Harmony."""
    return Stage(*harmony_text, harmony=True)


@pytest.fixture
def plain(plain_text: tuple[Tokenizer, ChatTemplate]) -> Stage:
    """A checkpoint whose text is its answer."""
    return Stage(*plain_text, harmony=False)


@contextlib.contextmanager
def serving() -> Iterator[Callable[[FastAPI, HttpConfig], str]]:
    """`start(app, config)` serves on a free loopback port, in a thread, and returns the base URL."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: FastAPI, config: HttpConfig) -> str:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn_config(app, config))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    try:
        yield start
    finally:
        for server, thread in running:
            server.should_exit = server.force_exit = True
            thread.join(10)


@pytest.fixture
def live() -> Iterator[Callable[[FastAPI, HttpConfig], str]]:
    """See `serving`."""
    with serving() as start:
        yield start
