"""A server with a keys file as an operator has it: a process, SIGHUP, and what is said on standard error."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from yardmaster.engine.config import EngineConfig
from yardmaster.server import front
from yardmaster.server.cli import main as cli
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.fair.house import FILE
from yardmaster.tests.server_process import ServerProcess

SERVE = Path(__file__).with_name("fair_serve.py")
BODY = {"prompt": [5, 1], "max_tokens": 4, "ignore_eos": True}


class Server(ServerProcess):
    def __init__(self, model: Path, keys_file: Path) -> None:
        super().__init__(SERVE, model, keys_file)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        self.wait_until(lambda: text in self.output, seconds)

    def post(self, key: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/completions", json=BODY, headers={"authorization": f"Bearer {key}"}, timeout=20
        )


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.yaml"
    file.write_text("keys: [{name: one, key: key-number-one, requests_per_minute: 9}]")
    return file


@pytest.fixture
def server(model: Path, keys_file: Path) -> Iterator[Server]:
    running = Server(model, keys_file)
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait(20)


def test_sighup_reads_the_file_again(server: Server, keys_file: Path) -> None:
    server.wait_for("ready: ")
    first = server.post("key-number-one")
    assert first.status_code == 200
    assert first.json()["usage"]["completion_tokens"] == 4
    assert first.headers["x-ratelimit-remaining-requests"] == "8"
    assert server.post("key-number-two").status_code == 401
    keys_file.write_text("keys: [{name: two, key: key-number-two}, {name: three, key: key-number-three}]")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("the keys file has been read again: 2 keys", 10)
    assert server.post("key-number-one").status_code == 401
    assert server.post("key-number-two").status_code == 200
    keys_file.write_text("keys: [{name: key-number-four")
    for _ in range(3):
        server.process.send_signal(signal.SIGHUP)
    server.wait_for("the keys stay as they are: ", 10)
    assert server.post("key-number-two").status_code == 200
    scrape = httpx.get(f"{server.url}/metrics").text
    assert 'yardmaster_key_requests_total{key="two"} 2.0' in scrape
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert "key-number" not in "".join(server.lines) + scrape


def test_a_broken_file_is_said_before_anything_starts(model: Path, tmp_path: Path) -> None:
    def launch(bound: str) -> Any:
        raise AssertionError("started")

    for name, text in (("keys.yaml", "keys: [{name: a, key: short}]"), ("keys.json", "{")):
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(ValueError, match=name):
            front.run(EngineConfig(model=str(model)), HttpConfig(("m",), keys_file=str(file)), "ipc:///x", launch)


def test_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[HttpConfig] = []
    monkeypatch.setattr(front, "serve", lambda engine, http: seen.append(http) or 0)
    monkeypatch.delenv("YARDMASTER_API_KEY", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    file = tmp_path / "keys.yaml"
    assert cli.run(["serve", str(tmp_path), "--keys-file", str(file)]) == 2
    assert "--keys-file" in capsys.readouterr().err
    file.touch()
    assert cli.run(["serve", str(tmp_path), "--keys-file", str(file)]) == 2  # before there is a model
    assert "keys.yaml" in capsys.readouterr().err
    file.write_text(FILE)
    monkeypatch.setattr(front, "listen", lambda http: socket.socket())  # whatever serves on this machine's port 8000
    assert cli.run(["serve", str(tmp_path), "--keys-file", str(file), "--host", "0.0.0.0"]) == 0
    assert seen.pop().keys_file == str(file)
    config = tmp_path / "serve.yaml"
    config.write_text(f"keys-file: {file}\nmodel: {tmp_path}\n")
    assert cli.run(["serve", "--config", str(config)]) == 0
    assert seen.pop().keys_file == str(file)
    for more in (["--api-key", "some-key-123"], ["--no-auth"]):
        assert cli.run(["serve", str(tmp_path), "--keys-file", str(file), *more]) == 2
        assert "contradict each other" in capsys.readouterr().err
