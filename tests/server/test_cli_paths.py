"""Paths as users type them: empty ones, homes, and what is wrong with them said before a model is fetched."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from yardmaster.server.cli import main as cli
from yardmaster.server.responses.store import store_path
from yardmaster.tests.server.cli_line import Serve, fails, up_to_the_front_end


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    return up_to_the_front_end(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--batch-dir"],
        ["serve", "--keys-file"],
        ["serve", "--chat-template"],
        ["serve", "--config"],
        ["generate", "--input"],
        ["generate", "--output"],
        ["generate", "--json-schema"],
        ["batch", "--input"],
        ["batch", "--output"],
        ["download", "a/b", "--local-dir"],
        ["bench", "serve", "--output"],
        ["tune", ".", "--output"],
    ],
)
def test_a_path_that_is_none_names_its_flag(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    flag = command[-1]
    for path, words in (("", "must not be empty"), (" ", "must not be empty"), ("~nosuch/x", "~nosuch/x: that home")):
        line = fails(capsys, *command, path)
        assert flag in line
        assert words in line


def test_homes(served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    _, http = served(
        ".", "--batch-dir=~/b", "--chat-template=~/t.jinja", "--response-store=~/sub/r.sqlite",
    )  # fmt: skip
    assert http.batch is not None
    assert http.batch.directory == str(tmp_path / "b")
    assert http.chat_template == str(tmp_path / "t.jinja")
    assert http.response_store == str(tmp_path / "sub" / "r.sqlite")
    assert (tmp_path / "sub" / "r.sqlite").is_file()


@pytest.mark.parametrize("command", ["serve", "chat", "generate", "tune"])
def test_a_model_in_no_home(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["-p", "x"] if command == "generate" else []
    assert "MODEL ~nosuch/x: that home folder is not known" in fails(capsys, command, "~nosuch/x", *more)


def test_nobodys_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", home)
    assert store_path(None) == ":memory:"
    with pytest.raises(ValueError, match="--response-store ~nosuch/r: that home folder"):
        store_path("~nosuch/r")
    with pytest.raises(ValueError, match="--response-store"):
        store_path(" ")


def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Serve) -> None:
    monkeypatch.chdir(tmp_path)
    _, http = served(".", "--batch-dir", ".")
    assert http.batch is not None
    assert http.batch.directory == str(tmp_path)
    assert cli.run(["init", ".", "--quiet", "--num-layers", "1"]) == 0
    assert (tmp_path / "config.json").is_file()


def test_a_models_name_with_a_space(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x ").mkdir()
    for command in (["serve"], ["batch", "-i", __file__, "-o", str(tmp_path / "out")]):
        line = fails(capsys, *command, f"{tmp_path}/x ")
        assert line.startswith("error: MODEL '")
        assert "--served-model-name NAME" in line


def test_what_needs_no_model_is_said_before_one_is_fetched(
    served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("yardmaster.weights.hub.download", lambda *args, **kwargs: pytest.fail("fetched"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: nonsense")
    assert "keys.yaml" in fails(capsys, "serve", "owner/name", "--keys-file", str(keys))
    assert "--response-store" in fails(capsys, "serve", "owner/name", "--response-store", str(tmp_path))
    assert "--tensor-parallel-size" in fails(capsys, "serve", "owner/name", "--tp", "4096")


def test_a_port_in_use_is_said_before_a_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("yardmaster.weights.hub.download", lambda *args, **kwargs: pytest.fail("fetched"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}" in fails(capsys, "serve", "owner/name", "--port", str(port), "--response-store", "off")


def test_tune_takes_a_model_of_the_hub_and_fetches_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr("yardmaster.weights.hub.cached", lambda repo, **where: tmp_path if repo == "a/here" else None)
    monkeypatch.setattr("yardmaster.engine.tune.tune", lambda model, *rest: (seen.append(model) or tmp_path, 1))
    assert cli.run(["tune", "a/here"]) == 0
    assert seen == [tmp_path]
    capsys.readouterr()
    assert "run `yardmaster download a/gone`" in fails(capsys, "tune", "a/gone")
