"""The command line in this process: what it says when it refuses, and what it would have served."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from yardmaster.engine.config import EngineConfig
from yardmaster.server import front
from yardmaster.server.cli import main as cli
from yardmaster.server.http.config import HttpConfig

Serve = Callable[..., tuple[EngineConfig, HttpConfig]]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line on stderr."""
    assert cli.run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def up_to_the_front_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """`run(*flags)` runs `serve` up to the front end: (EngineConfig, HttpConfig)."""
    seen: list[tuple[EngineConfig, HttpConfig]] = []

    def record(engine: EngineConfig, http: HttpConfig) -> int:
        seen.append((engine, http))
        return 0

    monkeypatch.setattr(front, "serve", record)
    monkeypatch.setattr(front, "listen", lambda http: socket.socket())  # whatever serves on this machine's port 8000
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("YARDMASTER_API_KEY", raising=False)

    def run(*flags: str) -> tuple[EngineConfig, HttpConfig]:
        assert cli.run(("serve", *flags)) == 0
        return seen.pop()

    return run
