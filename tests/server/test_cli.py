"""The command line: exit codes, one-line errors, help without torch, flags and config file to the two configs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yardmaster import __version__
from yardmaster.engine.config import EngineConfig
from yardmaster.server import front
from yardmaster.server.cli import main as cli
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.cli_line import Serve, fails, up_to_the_front_end


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    return up_to_the_front_end(monkeypatch, tmp_path)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"yardmaster {__version__}\n"
    for flag in ([], ["--help"], ["-h"]):
        assert cli.run(flag) == 0
        out = capsys.readouterr().out
        for name in ("serve", "chat", "generate", "download", "init", "bench"):
            assert name in out
    for command in (["serve"], ["chat"], ["play"], ["generate"], ["download"], ["init"], ["bench"], ["bench", "serve"]):
        assert cli.run([*command, "--help"]) == 0
        assert "Usage: yardmaster" in capsys.readouterr().out


def test_help_is_quick_because_it_imports_little() -> None:
    script = (
        "import sys; from yardmaster.server.cli.main import run; run(['serve', '--help']); "
        "print([m for m in ('torch', 'numpy', 'fastapi', 'uvicorn', 'httpx', 'zmq', 'tokenizers', 'yaml') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sing"], "sing"),
        (["serve", "--prot", "1"], "--prot"),
        (["serve", "--port", "eighty"], "--port"),
        (["serve", "--port", "70000"], "--port must be between 0 and 65535"),
        (["serve", "--dtype", "int3"], "--dtype must be one of"),
        (["serve", "--device", "tpu"], "--device must be one of"),
        (["serve", "--tp", "3", "--ep", "2"], "--expert-parallel-size"),
        (["serve", "--tp", "-1"], "--tensor-parallel-size"),
        (["serve", "--dp", "0"], "--data-parallel-size"),
        (["serve", "--max-num-seqs", "64", "--max-num-batched-tokens", "32"], "--max-num-batched-tokens"),
        (["serve", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["serve", "--host", "0.0.0.0"], "--api-key"),
        (["serve", "--api-key", "short"], "--api-key must be at least"),
        (["serve", "--api-key", "long-enough", "--no-auth"], "--no-auth"),
        (["serve", "--revision", "main"], "--revision goes with"),
        (["serve", ".", "--revision", "main"], "--revision goes with"),
        (["chat", "http://127.0.0.1:9", "--tp", "2", "--dtype", "float32"], "--dtype, --tensor-parallel-size"),
        (["chat", ".", "--served-model-name", "x"], "--served-model-name goes with a URL"),
        (["serve", "--served-model-name", ""], "--served-model-name"),
        (["serve", "--served-model-name", " a"], "--served-model-name"),
        (["serve", "--chat-template", "nowhere.jinja"], "--chat-template: nowhere.jinja is no file"),
        (["serve", "--host", ""], "--host must not be empty"),
        (["serve", ""], "MODEL must not be empty"),
        (["serve", "--log-level", "loud"], "--log-level"),
        (["serve", "./nowhere"], "nowhere"),
        (["serve", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["generate"], "--prompt"),
        (["generate", "-p", "x", "-i", "y"], "--prompt"),
        (["generate", "-i", "nowhere.jsonl"], "--input"),
        (["generate", "-p", "x", "--temperature", "-1"], "temperature"),
        (["chat", "./nowhere"], "nowhere"),
        (["init"], "DIR"),
        (["init", "x", "--family", "bert"], "--family"),
        (["init", "x", "--layer-types", "sx"], "--layer-types"),
        (["init", "x", "--num-layers", "0"], "--num-layers"),
        (["init", "x", "--num-layers", "1000000000000"], "--num-layers"),
        (["init", "x", "--layer-types", ""], "--layer-types"),
        (["init", "x", "--seed", str(2**63)], "--seed"),
        (["init", "x", "--dtype", "float32", "--expert-dtype", "bfloat16"], "--expert-dtype"),
        (["init", "x", "--head-dim", "3"], "the flags describe no model: head_dim is 3; rotary"),
        (["init", ""], "'DIR': must not be empty"),
        (["init", "x", "--vocab-size", "10"], "vocabulary"),
        (["init", "x", "--dtype", "int8"], "dtype"),
        (["download", "no"], "no"),
        (["bench", "serve", "--endpoint", "images"], "--endpoint"),
        (["bench", "serve", "--request-rate", "0"], "--request-rate"),
        (["bench", "serve", "--num-prompts", "0"], "--num-prompts"),
        (["bench", "serve", "--base-url", "127.0.0.1"], "--base-url"),
        (["bench", "serve", "--base-url", "http://[::1"], "--base-url"),
        (["bench", "serve", "--base-url", "http://127.0.0.1:99999"], "--base-url"),
        (["bench", "serve", "--api-key", "\u00e9"], "--api-key must be printable"),
        (["bench", "serve", "--temperature", "nan"], "--temperature"),
        (["chat", "http://[::1"], "must be an address"),
        (["chat", "http://127.0.0.1:9", "--api-key", "two words"], "--api-key must be printable"),
    ],
)
def test_a_users_slip_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert words in fails(capsys, *arguments)


def test_what_failed_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, "init", "/dev/null/x", code=1) == "error: /dev/null/x: Not a directory\n"
    assert "127.0.0.1:9" in fails(capsys, "bench", "serve", "--base-url", "http://127.0.0.1:9", code=1)
    assert "127.0.0.1:9" in fails(capsys, "chat", "http://127.0.0.1:9", code=1)


def test_flags_become_configs(served: Serve, tmp_path: Path) -> None:
    engine, http = served(
        str(tmp_path), "--tp", "2", "--data-parallel-size", "2", "--ep", "2", "--dtype", "float32",
        "--max-model-len", "4096", "--gpu-memory-utilization", "0.5", "--kv-cache-memory-bytes", "1000000",
        "--block-size", "32", "--max-num-seqs", "7", "--max-num-batched-tokens", "300", "--max-waiting", "9",
        "--load-format", "dummy", "--expert-dtype", "bfloat16", "--device", "cpu", "--seed", "5",
        "--collective-timeout", "30", "--num-cpu-threads", "3",
        "--host", "0.0.0.0", "--port", "81", "--api-key", "first-key", "--api-key", "second-key",
        "--served-model-name", "a", "--served-model-name", "b", "--chat-template", __file__,
    )  # fmt: skip
    assert http.chat_template == __file__
    assert engine.model == str(tmp_path)
    assert (engine.parallel.tp, engine.parallel.dp, engine.parallel.ep) == (2, 2, 2)
    assert (engine.dtype, engine.load_format, engine.expert_dtype, engine.device) == (
        "float32", "dummy", "bfloat16", "cpu",
    )  # fmt: skip
    assert (engine.max_model_len, engine.gpu_memory_utilization, engine.kv_cache_memory_bytes) == (4096, 0.5, 1000000)
    limits = engine.scheduler
    assert (engine.page_size, limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_waiting) == (32, 7, 300, 9)
    assert (engine.seed, engine.collective_timeout, engine.num_cpu_threads) == (5, 30.0, 3)
    assert (http.host, http.port, http.served_model_names) == ("0.0.0.0", 81, ("a", "b"))
    assert http.api_keys == ("first-key", "second-key")


def test_without_flags_the_configs_keep_their_own_defaults(served: Serve, tmp_path: Path) -> None:
    engine, http = served(str(tmp_path))
    assert engine == EngineConfig(model=str(tmp_path))
    assert http == HttpConfig((str(tmp_path),), response_store=http.response_store)
    assert http.response_store.endswith("/yardmaster/responses.sqlite")


def test_keys_come_from_the_environment(served: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YARDMASTER_API_KEY", "key-of-env-1 key-of-env-2")
    assert served(str(tmp_path))[1].api_keys == ("key-of-env-1", "key-of-env-2")
    assert served(str(tmp_path), "--api-key", "key-of-flag")[1].api_keys == ("key-of-flag",)


def test_no_auth_opens_the_door(served: Serve, tmp_path: Path) -> None:
    assert served(str(tmp_path), "--host", "0.0.0.0", "--no-auth")[1].no_auth


def test_config_file(served: Serve, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        f"model: {tmp_path}\nport: 81\nmax_num_seqs: 7\ngpu-memory-utilization: 0.25\ntp: 2\n"
        "api-key: [first-key, second-key]\nserved-model-name: me\n"
    )
    engine, http = served("--config", str(file), "--port", "82")
    assert engine.model == str(tmp_path)
    assert (http.port, http.served_model_names) == (82, ("me",))
    assert http.api_keys == ("first-key", "second-key")
    assert (engine.scheduler.max_num_seqs, engine.gpu_memory_utilization, engine.parallel.tp) == (7, 0.25, 2)
    assert served(str(tmp_path / ".."), "--config", str(file))[0].model == str(tmp_path / "..")
    file.write_text("no-auth: true\nhost: 0.0.0.0\n")
    assert served(str(tmp_path), "--config", str(file))[1].no_auth
    file.write_text("")
    assert served(str(tmp_path), "--config", str(file))[1].port == 8000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_model_length: 5", "did you mean 'max-model-len'"),
        ("prt: 5", "did you mean 'port'"),
        ("config: x.yaml", "unknown key"),
        ("help: true", "unknown key"),
        ("zzzzzzzz: 5", "unknown key 'zzzzzzzz'"),
        ("port: eighty", "--port"),
        ("port: 80.5", "--port"),
        ("port: [80, 81]", "single value"),
        ("port: {a: 1}", "single value"),
        ("port:", "single value, got nothing"),
        ("port: null", "single value, got nothing"),
        ("api-key: [a-good-key, ~]", "single value, got nothing"),
        ("port: 0x50", "--port"),
        ("no-auth: perhaps", "--no-auth"),
        ("dtype: true", "--dtype must be one of"),
        ("- port", "must hold keys"),
        ("port: 1\nport: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("tp: 2\ntensor-parallel-size: 2", "twice"),
    ],
)
def test_a_wrong_config_file_names_file_and_key(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    line = fails(capsys, "serve", str(tmp_path), "--config", str(file))
    assert words in line


def test_a_value_of_the_config_file_is_its_text(served: Serve, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "response-store: off\napi-key: 0123456701234567\nserved-model-name: [2024-01-01, 1e3, no]\n"
        "gpu-memory-utilization: .5\nmax-num-seqs: '7'\nenforce-eager: yes\nasync-scheduling: off\n"
    )
    engine, http = served(str(tmp_path), "--config", str(file))
    assert http.response_store == "off"
    assert http.api_keys == ("0123456701234567",)
    assert http.served_model_names == ("2024-01-01", "1e3", "no")
    assert (engine.gpu_memory_utilization, engine.scheduler.max_num_seqs) == (0.5, 7)
    assert (engine.enforce_eager, engine.async_scheduling) == (True, False)
    assert not (Path.cwd() / "false").exists()
    for yes in ("true", "True", "on", "Yes", "1"):
        file.write_text(f"no-auth: {yes}\nasync_scheduling: {yes}")
        engine, http = served(str(tmp_path), "--config", str(file))
        assert (http.no_auth, engine.async_scheduling) == (True, True)


def test_a_config_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n#")
    for name, words in (
        ("pipe.yaml", "is no file"),
        ("binary.yaml", "is not valid YAML"),
        (".", "is no file"),
        ("large.yaml", "is larger than 1 MiB"),
    ):
        line = fails(capsys, "serve", "--config", str(tmp_path / name))
        assert str(tmp_path) in line
        assert words in line
        assert "checkpoint" not in line


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(engine: EngineConfig, http: HttpConfig) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(front, "serve", interrupted)
    assert cli.run(["serve", str(tmp_path)]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_exit_codes_of_the_process(tmp_path: Path) -> None:
    """`python -m yardmaster`: a slip, a closed pipe, Ctrl-C at a prompt."""
    command = [sys.executable, "-m", "yardmaster"]
    slip = subprocess.run([*command, "serve", "--port", "x"], capture_output=True, text=True, check=False)
    assert slip.returncode == 2
    assert slip.stderr.startswith("error: ")
    assert slip.stdout == ""
    pipe = subprocess.Popen([*command, "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert pipe.stdout
    assert pipe.stderr
    pipe.stdout.close()
    assert b"Traceback" not in pipe.stderr.read()
    assert pipe.wait() in (0, 1)
    pipe.stderr.close()


def test_ctrl_c_ends_a_process_at_its_prompt() -> None:
    from yardmaster.tests.server.fake_openai import fake_openai

    with fake_openai() as server:
        chat = subprocess.Popen(
            [sys.executable, "-m", "yardmaster", "chat", server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert chat.stdin
        chat.stdin.write("hello\n")
        chat.stdin.flush()
        assert chat.stdout
        assert chat.stdout.readline() == "one two three\n"  # whole: what follows is the prompt
        time.sleep(0.5)
        chat.send_signal(signal.SIGINT)
        _, err = chat.communicate(timeout=30)
    assert chat.returncode == 130
    assert "Traceback" not in err
