"""The front end's own process, as far as it can be had without one."""

from __future__ import annotations

import io
import socket
import sys

import pytest

from yardmaster.engine.config import EngineConfig
from yardmaster.server import front
from yardmaster.server.http.config import HttpConfig


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_signal_is_heard_though_nobody_reads_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken())
    with socket.socket() as listener:
        process = front._Front(EngineConfig(model="-"), HttpConfig(("m",)), listener)
        process._on_signal()
        assert process._signalled.is_set()
        process._on_signal()
