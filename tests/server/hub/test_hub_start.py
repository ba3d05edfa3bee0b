"""How a server of several front-end processes is asked for, and what keeps it from beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

from yardmaster.engine.channel import private_address
from yardmaster.engine.config import EngineConfig
from yardmaster.server import front
from yardmaster.server.cli import main as cli
from yardmaster.server.http.config import HttpConfig


def test_the_flag_has_two_names_and_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[HttpConfig] = []
    monkeypatch.setattr(front, "serve", lambda engine, http: seen.append(http) or 0)
    monkeypatch.delenv("RANK", raising=False)
    config = tmp_path / "serve.yaml"
    config.write_text(f"api-server-count: 4\nmodel: {tmp_path}\n")
    for given, found in (([], 1), (["--api-servers", "3"], 3), (["--api-server-count", "2"], 2)):
        assert cli.run(["serve", str(tmp_path), *given]) == 0
        assert seen.pop().api_servers == found
    assert cli.run(["serve", "--config", str(config)]) == 0
    assert seen.pop().api_servers == 4
    for wrong in ("0", "-1", "65"):
        assert cli.run(["serve", str(tmp_path), "--api-servers", wrong]) == 2
        assert "--api-servers must be between 1 and 64" in capsys.readouterr().err


def test_what_a_front_end_cannot_begin_with_is_said_in_one_line(model: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{% broken")

    class Ranks:
        def ended(self) -> None: ...

        async def stop(self, orderly: bool) -> None: ...

    http = HttpConfig(("m",), port=0, api_servers=2, chat_template=str(template))
    with private_address() as address, pytest.raises(ValueError, match=r"mine\.jinja"):
        front.run(EngineConfig(model=str(model)), http, address, lambda bound: Ranks())
