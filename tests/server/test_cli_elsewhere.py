"""What users of vLLM and SGLang type: taken where it asks for what is so here, else refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.server.cli import main as cli
from yardmaster.server.cli.known_elsewhere import FACTS, without_known_elsewhere
from yardmaster.server.engine_settings import engine_config
from yardmaster.tests.server.cli_line import Serve, fails, up_to_the_front_end


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    return up_to_the_front_end(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def harmony(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("harmony") / "tiny"
    shape = {"hidden_size": 32, "num_layers": 1, "head_dim": 16, "num_heads": 2, "expert_width": 32, "num_experts": 4}
    write_random_checkpoint(directory, small_gpt_oss(vocab_size=512, **shape))
    return str(directory)


def test_what_is_so_here_is_taken_with_a_note(
    served: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (
        "--enable-auto-tool-choice", "--enable-expert-parallel", "--disable-log-requests", "--enable-chunked-prefill",
        "--no-enable-prefix-caching", "--no-trust-remote-code",
    )  # fmt: skip
    engine, _ = served(str(tmp_path), *flags, "--pipeline-parallel-size", "1", "--generation-config=auto", "-tp", "2")
    assert engine.parallel.tp == 2
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == len(flags) + 2
    for flag in (*flags, "--pipeline-parallel-size", "--generation-config"):
        assert any(line.startswith(f"{flag}: it is so here; ") for line in notes)
    served(str(tmp_path), "-ep", "-pp", "1", "-dp", "2")
    file = tmp_path / "serve.yaml"
    file.write_text("enable-auto-tool-choice: true\nenable_prefix_caching: false\n")
    capsys.readouterr()
    served(str(tmp_path), "--config", str(file))
    assert "--no-enable-prefix-caching: it is so" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trust-remote-code"], "--trust-remote-code is no flag here: a checkpoint's own code is never run"),
        (["--enable-prefix-caching"], "--enable-prefix-caching is no flag here"),
        (["--no-enable-chunked-prefill"], "--no-enable-chunked-prefill is no flag here"),
        (["--quantization", "fp8"], "experts as --expert-dtype says"),
        (["-q", "fp8"], "--quantization is no flag here"),
        (["-pp", "2"], "give --tp, --dp, --ep, got '2'"),
        (["--tp-size", "2"], "give --tensor-parallel-size"),
        (["--context-length", "4096"], "give --max-model-len"),
        (["--swap-space", "4"], "computed again"),
    ],
)
def test_what_cannot_be_says_why(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in fails(capsys, "serve", "./nowhere", *flags)


def test_the_tables_are_flags_of_nobodys_and_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    for name, fact in FACTS.items():
        assert f"--{name.replace('_', '-')} " not in shown
        assert fact.text
        assert not fact.text.endswith(".")
        with pytest.raises(ValueError, match="there is no argument"):  # else it would be an engine's
            engine_config("-", **{name: None})
    assert "--model-path" not in shown


def test_arguments_of_a_program() -> None:
    told: list[str] = []
    flags = {"trust_remote_code": False, "quantization": None, "swap_space": 0, "enable_expert_parallel": True}
    assert without_known_elsewhere(flags | {"dtype": "float32"}, told.append) == {"dtype": "float32"}
    assert len(told) == 3
    with pytest.raises(ValueError, match=r"^--trust-remote-code is no flag here"):
        without_known_elsewhere({"trust_remote_code": True}, told.append)


def test_the_model_by_a_flag(served: Serve, tmp_path: Path, harmony: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--model", "--model-path"):
        engine, http = served(flag, str(tmp_path))
        assert (engine.model, http.served_model_names) == (str(tmp_path), (str(tmp_path),))
    assert "given twice" in fails(capsys, "serve", harmony, "--model", str(tmp_path))
    file = tmp_path / "serve.yaml"
    for key in ("model", "model-path"):
        file.write_text(f"{key}: {harmony}")
        assert served("--config", str(file))[0].model == harmony
        assert served("--config", str(file), str(tmp_path))[0].model == str(tmp_path)
        assert served("--config", str(file), "--model", str(tmp_path))[0].model == str(tmp_path)


@pytest.mark.parametrize(("tools", "reasoning"), [("openai", "openai_gptoss"), ("gpt-oss", "gpt-oss")])
def test_parsers_that_harmony_has_anyway(served: Serve, harmony: str, tools: str, reasoning: str) -> None:
    _, http = served(harmony, "--tool-call-parser", tools, "--reasoning-parser", reasoning)
    assert (http.tool_call_parser, http.reasoning_parser) == (tools, reasoning)


def test_parsers_of_others_are_refused_before_ranks_start(
    served: Serve, harmony: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, "serve", harmony, "--tool-call-parser", "hermes")
    assert "--tool-call-parser must be one of openai or gpt-oss for this model, which speaks Harmony" in line
    assert "openai_gptoss or gpt-oss" in fails(capsys, "serve", harmony, "--reasoning-parser", "none")
    for flag in ("--tool-call-parser", "--reasoning-parser"):  # before there is a model
        assert f"{flag} must be one of " in fails(capsys, "serve", "owner/nowhere", flag, "herms")


def test_a_job_platforms_variables_are_not_torchruns(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    engine, _ = served(".")
    assert engine.parallel.world_size == 1


def test_only_who_joins_it_has_torchruns_world(
    served: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4, "MASTER_ADDR": "a", "MASTER_PORT": 1}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    assert served(".")[0].parallel.dp == 4
    assert "torchrun started 4 ranks" in fails(capsys, "serve", ".", "--dp", "3")
    assert engine_config("-").parallel.world_size == 1
