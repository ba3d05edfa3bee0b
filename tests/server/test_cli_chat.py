"""The terminal conversation, against a server over HTTP and against a partner that only pretends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from yardmaster.server.cli import main as cli
from yardmaster.server.cli.chat import Conversation
from yardmaster.server.cli.console import CommandError
from yardmaster.server.cli.talk import Remote, Reply
from yardmaster.tests.server.fake_openai import FakeOpenAI, fake_openai


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with fake_openai() as fake:
        yield fake


class Parrot:
    name = "parrot"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.heard: list[list[dict[str, Any]]] = []
        self.closed = 0

    def reply(self, messages: list[dict[str, Any]]) -> Reply:
        self.heard.append([dict(message) for message in messages])
        answer = self.answers.pop(0)
        try:
            for piece in answer:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed += 1

    def close(self) -> None: ...


def talk(monkeypatch: pytest.MonkeyPatch, partner: Parrot, text: str, **options: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    Conversation(partner, options.pop("system", None), **options).run()


def test_turns_keep_the_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parrot = Parrot([("hm", ""), ("", "Good"), ("", " day")], [("", "Bye")])
    talk(monkeypatch, parrot, "hello\n\n  again \n", system="be kind")
    assert parrot.heard[1] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "again"},
    ]
    out = capsys.readouterr().out
    assert out == "hm\n\nGood day\nBye\n"


def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parrot = Parrot([("", "a")], [("", "b")], [("", "c")])
    talk(monkeypatch, parrot, "one\n/reset\ntwo\n/system be brief\nthree\n/help\n/wat\n/\n/quit\nfour\n")
    assert parrot.heard[1] == [{"role": "user", "content": "two"}]
    assert parrot.heard[2] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "three"}]
    assert len(parrot.heard) == 3
    assert capsys.readouterr().err.count("/reset forgets") == 3


def test_stopping_and_refusals_leave_the_conversation_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parrot = Parrot([("", "half"), KeyboardInterrupt()], [ValueError("too long")], [("", "fine")])
    talk(monkeypatch, parrot, "one\ntwo\nthree\n")
    assert [message["content"] for message in parrot.heard[2]] == ["one", "half", "three"]
    assert parrot.closed == 3
    assert "error: too long" in capsys.readouterr().err
    with pytest.raises(CommandError, match="gone"):
        talk(monkeypatch, Parrot([CommandError("gone")]), "one\n")


def test_a_model_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;title\x07\x1b[2Jx\x9b31m\r\x00[bold]:smile:[/bold]\ttab\nline"
    talk(monkeypatch, Parrot([(evil, evil)]), "hello\n")
    out = capsys.readouterr().out
    assert not set(out) & {"\x1b", "\x07", "\x9b", "\r", "\x00"}
    assert out.count("[bold]:smile:[/bold]\ttab\nline") == 2


def test_hidden_reasoning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    talk(monkeypatch, Parrot([("secret", ""), ("", "answer")]), "hello\n", hide_reasoning=True)
    assert capsys.readouterr().out == "answer\n"


@pytest.mark.parametrize("command", ["chat", "play"])
def test_against_a_server(
    command: str, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reasoning = "let me see"
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nmore\n"))
    flags = ["--api-key", "the-key", "--temperature", "0", "--max-tokens", "9", "--sampling-seed", "3"]
    assert cli.run([command, f"{server.url}/v1/", "--reasoning-effort", "low", "--system", "s", *flags]) == 0
    out = capsys.readouterr().out
    assert out == "let me see\n\none two three\n" * 2
    body = server.bodies[1]
    assert {key: body[key] for key in body if key != "messages"} == {
        "model": "fake", "stream": True, "temperature": 0, "max_tokens": 9, "seed": 3, "reasoning_effort": "low",
    }  # fmt: skip
    assert [message["content"] for message in body["messages"]] == ["s", "hello", "one two three", "more"]
    assert server.headers[0]["Authorization"] == "Bearer the-key"


def test_a_refusal_and_a_failure(server: FakeOpenAI) -> None:
    server.fail_every = 1
    remote = Remote(server.url, None, None, {})
    with pytest.raises(CommandError, match="503: the queue is full"):
        list(remote.reply([]))
    server.shutdown()
    server.server_close()
    with pytest.raises(CommandError, match=r"127\.0\.0\.1"):
        list(remote.reply([]))
    remote.close()
