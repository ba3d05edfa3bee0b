"""A server of several front-end processes as its clients and its operator have it."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from yardmaster.engine.channel import private_address
from yardmaster.engine.config import EngineConfig
from yardmaster.models.random_checkpoint import small_gpt_oss, write_random_checkpoint
from yardmaster.server import front
from yardmaster.server.cli import main as cli
from yardmaster.server.http.config import HttpConfig

SERVE = Path(__file__).with_name("hub_serve.py")
VOCABULARY, SLOW_TOKEN = 50_000, 7  # the fake rank's
KEYS = """keys:
  - {name: free, key: key-free-of-limits}
  - {name: few, key: key-with-few-requests, requests_per_minute: 5}
  - {name: alone, key: key-for-one-at-once, max_concurrent: 1}
  - {name: ops, key: key-of-an-operator, admin: true}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub-model")
    write_random_checkpoint(folder, small_gpt_oss(num_layers=1, hidden_size=64))
    return folder


class Server:
    """A running server and every process under it."""

    def __init__(self, model: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*(launcher or (sys.executable,)), str(SERVE), str(model), str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.family: list[psutil.Process] = []
        try:
            self.wait_for(lambda: "ready: " in self.output, 90)
        except AssertionError:
            self.close()
            raise
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def _read(self) -> None:
        if self.process.stdout is not None:
            self.lines.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, true: Callable[[], Any], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.output
            assert self.process.poll() is None, self.output
            time.sleep(0.02)

    @property
    def doors(self) -> list[psutil.Process]:
        every = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in every if "yardmaster.server.hub.door" in p.cmdline()]

    def post(self, key: str, tokens: int = 4, prompt: tuple[int, ...] = (5, 1), **more: Any) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/completions", json=body(tokens, prompt) | more, headers=bearer(key), timeout=30
        )

    def stream(self, key: str, tokens: int, prompt: tuple[int, ...] = (SLOW_TOKEN, 1)) -> Iterator[str]:
        json = body(tokens, prompt) | {"stream": True}
        with httpx.stream("POST", f"{self.url}/v1/completions", json=json, headers=bearer(key), timeout=30) as response:
            assert response.status_code == 200
            yield from (line for line in response.iter_lines() if line)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; each appears once."""
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        lines = re.findall(rf"^yardmaster_{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        assert all(count == 1 for count in Counter(given for given, _ in lines).values())
        return sum(float(v) for given, v in lines if all(f'{k}="{value}"' in given for k, value in labels.items()))

    def left(self, seconds: float) -> list[psutil.Process]:
        psutil.wait_procs(self.family, timeout=seconds)
        return [p for p in self.family if p.is_running() and p.status() != "zombie"]

    def close(self) -> None:
        every = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        for process in [*every, *self.family]:
            if process.is_running():
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def body(tokens: int, prompt: tuple[int, ...]) -> dict[str, Any]:
    return {"prompt": list(prompt), "max_tokens": tokens, "ignore_eos": True, "return_token_ids": True}


def expected(prompt: tuple[int, ...], count: int) -> list[int]:
    """What the fake rank generates: each token depends on all before it."""
    tokens = list(prompt)
    for _ in range(count):
        state = 17
        for token in tokens:
            state = (state * 31 + token + 1) % VOCABULARY
        tokens.append(state)
    return tokens[len(prompt) :]


def token_ids(events: list[str]) -> list[int]:
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if event != "data: [DONE]"]
    return [token for chunk in chunks for choice in chunk["choices"] for token in choice.get("token_ids") or ()]


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub-keys") / "keys.yaml"


@pytest.fixture(scope="module")
def server(model: Path, keys_file: Path) -> Iterator[Server]:
    keys_file.write_text(KEYS)
    running = Server(model, "2", str(keys_file))
    yield running
    running.close()


def test_connections_are_spread_evenly(server: Server) -> None:
    """Each is kept open, so that who has how many can be seen."""
    host, port = server.url.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(9)]
    try:
        for connection in held:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
        numbers = sorted(
            sum(1 for c in door.net_connections("tcp") if c.status == "ESTABLISHED") for door in server.doors
        )
        assert numbers == [4, 5]
    finally:
        for connection in held:
            connection.close()


def test_streams_are_whole_whichever_process_has_them(server: Server) -> None:
    prompts = [(seed, 3) for seed in range(20, 44)]
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: list(server.stream("key-free-of-limits", 40, prompt)), prompts))
    for prompt, events in zip(prompts, answers, strict=True):
        assert events[-1] == "data: [DONE]"
        assert token_ids(events) == expected(prompt, 40)
    whole = server.post("key-free-of-limits", 30, (9, 8, 7), n=3)
    assert [choice["token_ids"] for choice in whole.json()["choices"]] == 3 * [expected((9, 8, 7), 30)]


def test_who_leaves_frees_the_engine(server: Server) -> None:
    assert server.metric("num_requests_running") == 0
    lines = server.stream("key-free-of-limits", 400)
    next(lines)
    server.wait_for(lambda: server.metric("num_requests_running") == 1, 5)
    aborted = server.metric("request_success_total", finished_reason="abort")
    lines.close()  # type: ignore[attr-defined]
    server.wait_for(lambda: server.metric("num_requests_running") == 0, 5)
    assert server.metric("request_success_total", finished_reason="abort") == aborted + 1


def test_metrics_are_one_view(server: Server) -> None:
    names = (
        "request_success_total",
        "request_generation_tokens_count",
        "generation_tokens_total",
        "engine_steps_total",
    )
    before = {name: server.metric(name) for name in names}
    counted = server.metric("http_requests_total", handler="/v1/completions")
    for _ in range(7):  # a connection each, so that both processes count some
        assert server.post("key-free-of-limits").status_code == 200
    for _ in range(3):
        after = {name: server.metric(name) for name in names}
        assert {name: after[name] - before[name] for name in names} == dict(zip(names, (7, 7, 28, 28), strict=True))
        assert server.metric("http_requests_total", handler="/v1/completions") == counted + 7
        assert server.metric("api_servers") == 2
        assert server.metric("engine_up") == 1
        assert server.metric("build_info") == 1
    scrapes = [server.metric("http_requests_total", handler="/metrics") for _ in range(3)]
    assert scrapes[2] == scrapes[1] + 1 == scrapes[0] + 2


def test_limits_of_keys_hold_over_all_processes(server: Server, keys_file: Path) -> None:
    answers = [server.post("key-with-few-requests") for _ in range(8)]
    assert [answer.status_code for answer in answers] == 5 * [200] + 3 * [429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == list("43210000")
    assert server.metric("key_rejected_total", key="few", reason="requests") == 3
    lines = server.stream("key-for-one-at-once", 400)
    next(lines)
    assert [server.post("key-for-one-at-once").status_code for _ in range(2)] == [429, 429]
    lines.close()  # type: ignore[attr-defined]
    server.wait_for(lambda: server.metric("key_sequences_running", key="alone") == 0, 5)
    server.wait_for(lambda: server.post("key-for-one-at-once").status_code == 200, 5)
    assert [server.post("nobody-s-key").status_code for _ in range(2)] == [401, 401]


def test_a_background_response_is_reached_through_every_process(server: Server) -> None:
    """Its state, its events, its end: whichever process is asked, and each request is asked of both."""

    def ask(method: str, path: str = "", key: str = "key-free-of-limits", **query: str) -> httpx.Response:
        return httpx.request(method, f"{server.url}/v1/responses{path}", headers=bearer(key), params=query, timeout=20)

    lines = server.stream("key-free-of-limits", 400)  # so that a step takes its time
    next(lines)
    with httpx.stream(
        "POST",
        f"{server.url}/v1/responses",
        json={"input": "x", "background": True, "stream": True, "model": "fake"},
        headers=bearer("key-free-of-limits"),
        timeout=20,
    ) as made:
        assert made.status_code == 200, made.read()
        first = next(data_of(made))
    identity = json.loads(first[6:])["response"]["id"]
    host, port = server.url.removeprefix("http://").split(":")
    time.sleep(0.2)
    idle = socket.create_connection((host, int(port)))  # now both have one, and get the next ones by turns
    time.sleep(0.2)
    for _ in range(4):
        told = ask("GET", f"/{identity}").json()
        assert told["status"] == "in_progress"
        assert ask("GET", f"/{identity}", key="key-with-few-requests").status_code == 404
        with httpx.stream(
            "GET",
            f"{server.url}/v1/responses/{identity}",
            params={"stream": "true", "starting_after": "0"},
            headers=bearer("key-free-of-limits"),
            timeout=20,
        ) as events:
            assert events.status_code == 200
            numbers = [
                json.loads(line[6:])["sequence_number"] for line, _ in zip(data_of(events), range(3), strict=False)
            ]
            assert numbers == [1, 2, 3]
    assert server.metric("num_requests_running") == 2
    cancelled = ask("POST", f"/{identity}/cancel").json()
    assert cancelled["status"] == "cancelled"
    server.wait_for(lambda: server.metric("num_requests_running") == 1, 5)
    assert [ask("GET", f"/{identity}").json()["status"] for _ in range(3)] == 3 * ["cancelled"]
    streams = [ask("GET", f"/{identity}", stream="true") for _ in range(2)]
    assert streams[0].content == streams[1].content != b""
    assert [ask("POST", f"/{identity}/cancel").json()["status"] for _ in range(2)] == 2 * ["cancelled"]
    assert ask("DELETE", f"/{identity}").json()["deleted"] is True
    assert [ask("GET", f"/{identity}").status_code for _ in range(3)] == 3 * [404]
    assert [ask("GET", f"/{identity}", stream="true").status_code for _ in range(2)] == 2 * [404]
    idle.close()
    lines.close()  # type: ignore[attr-defined]


def data_of(response: httpx.Response) -> Iterator[str]:
    return (line for line in response.iter_lines() if line.startswith("data: {"))


def test_an_operator_reaches_all_processes_through_one(server: Server, keys_file: Path) -> None:
    def ask(method: str, path: str) -> httpx.Response:
        return httpx.request(method, f"{server.url}/admin/{path}", headers=bearer("key-of-an-operator"))

    assert [key["name"] for key in ask("GET", "keys").json()["data"]] == ["free", "few", "alone", "ops"]
    drained = ask("POST", "drain").json()
    assert drained == {"draining": True, "requests": 0, "sequences_running": 0, "sequences_waiting": 0}
    assert [server.post("key-free-of-limits").status_code for _ in range(3)] == 3 * [503]
    assert ask("DELETE", "drain").json()["draining"] is False
    server.wait_for(lambda: httpx.get(f"{server.url}/ready").status_code == 200, 5)
    assert [server.post("key-free-of-limits").status_code for _ in range(3)] == 3 * [200]
    keys_file.write_text(KEYS + "  - {name: new, key: key-that-is-new}\n")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda: "5 keys" in server.output, 5)
    assert [server.post("key-that-is-new").status_code for _ in range(3)] == 3 * [200]
    keys_file.write_text(KEYS)
    assert ask("POST", "keys/reload").json() == {"keys": 4}
    server.wait_for(lambda: {server.post("key-that-is-new").status_code for _ in range(3)} == {401}, 5)
    keys_file.write_text("keys: [{name: key-number-four")
    assert ask("POST", "keys/reload").status_code == 409


def test_a_killed_hub_leaves_nobody(server: Server) -> None:
    """The last of those that share this server."""
    lines = server.stream("key-free-of-limits", 400)
    next(lines)
    server.process.kill()
    with pytest.raises(AssertionError, match="engine_dead"):
        list(refuse_errors(lines))
    assert server.left(10) == []


def refuse_errors(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        assert '"error"' not in line, line
        yield line


def test_one_is_killed_and_the_server_goes_on_until_it_is_told_to_end(model: Path) -> None:
    server = Server(model, "2")
    try:
        assert len(server.doors) == 2
        prompts = [(SLOW_TOKEN, 1), (20, 2), (30, 3), (40, 4)]  # one makes the steps of all slow
        streams = [server.stream("any", 50, prompt) for prompt in prompts]
        told = [[next(each)] for each in streams]
        assert server.metric("num_requests_running") == 4
        time.sleep(1.2)  # so that what was counted is known beyond the process that counted it
        seen = server.metric("time_to_first_token_seconds_count")
        assert seen == 4
        server.doors[0].kill()
        ends: list[str] = []
        for place, each in enumerate(streams):
            try:
                told[place] += list(each)
                ends.append(told[place][-1])
            except httpx.HTTPError:
                ends.append("lost")
        assert sorted(ends) == ["data: [DONE]", "data: [DONE]", "lost", "lost"]
        for prompt, events, end in zip(prompts, told, ends, strict=True):
            if end != "lost":
                assert token_ids(events) == expected(prompt, 50)
        assert server.metric("num_requests_running") == 0
        assert server.metric("generation_tokens_total") < 4 * 50  # what nobody reads was aborted
        assert server.metric("time_to_first_token_seconds_count") == seen
        assert server.post("any").status_code == 200
        server.wait_for(lambda: server.metric("api_servers") == 2, 30)
        assert server.metric("api_server_restarts_total") == 1
        assert "was killed by SIGKILL" in server.output
        server.family = psutil.Process(server.process.pid).children(recursive=True)
        streams = [server.stream("any", 20, prompt) for prompt in prompts]
        told = [[next(each)] for each in streams]
        server.process.send_signal(signal.SIGTERM)
        for prompt, events, each in zip(prompts, told, streams, strict=True):
            events += list(each)
            assert events[-1] == "data: [DONE]"
            assert token_ids(events) == expected(prompt, 20)
        assert server.process.wait(10) == 0
        assert server.left(1) == []
        assert "Traceback" not in server.output
    finally:
        server.close()


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


@pytest.mark.slow
def test_under_torchrun_a_dead_rank_ends_all(model: Path) -> None:
    server = Server(model, "2", launcher=(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"))
    try:
        assert [server.post("any").status_code for _ in range(4)] == 4 * [200]
        streams = [server.stream("any", 300, (SLOW_TOKEN, place)) for place in range(2)]
        for each in streams:
            next(each)
        rank = next(p for p in server.family if "hub_serve.py" in " ".join(p.cmdline()) and "torch" not in p.cmdline())
        rank.kill()
        for each in streams:
            assert any("engine_dead" in line for line in each)
        assert server.process.wait(15) != 0
        assert server.left(5) == []
    finally:
        server.close()


@pytest.mark.slow
def test_a_dead_engine_ends_with_one_and_a_second_signal_at_once(model: Path) -> None:
    server = Server(model, "3")
    try:
        lines = server.stream("any", 300)
        next(lines)
        next(
            p for p in server.family if "fake_rank.py" in p.cmdline()[-1] and "launch" not in " ".join(p.cmdline())
        ).kill()
        assert any("engine_dead" in line for line in lines)
        assert server.process.wait(15) == 1
        assert server.left(5) == []
        assert "rank 0" in server.output
    finally:
        server.close()
    server = Server(model, "3")
    try:
        lines = server.stream("any", 400)
        next(lines)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 8
        assert server.left(1) == []
    finally:
        server.close()


@pytest.mark.slow
def test_a_batch_is_run_once_by_one_process_and_after_its_death_by_another(model: Path, tmp_path: Path) -> None:
    server = Server(model, "2", "-", str(tmp_path / "batches"))
    try:
        prompts = [(SLOW_TOKEN, place) for place in range(30)]
        lines = [
            {"custom_id": f"{place}", "method": "POST", "url": "/v1/completions", "body": body(6, prompt)}
            for place, prompt in enumerate(prompts)
        ]
        data = "\n".join(map(json.dumps, lines)).encode()
        file = httpx.post(f"{server.url}/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"})
        batch = httpx.post(
            f"{server.url}/v1/batches",
            json={"input_file_id": file.json()["id"], "endpoint": "/v1/completions", "completion_window": "24h"},
        )
        assert batch.status_code == 200, batch.text

        def now() -> Any:
            return httpx.get(f"{server.url}/v1/batches/{batch.json()['id']}", timeout=10).json()

        server.wait_for(lambda: now()["request_counts"]["completed"] >= 5, 30)
        holders = [door for door in server.doors if any("runner.lock" in f.path for f in door.open_files())]
        server.doors[0].kill()
        server.wait_for(lambda: server.metric("api_servers") == 2, 30)
        server.doors[0].kill()  # whichever it was that ran them, it is dead by now, or the next one
        server.wait_for(lambda: now()["status"] == "completed", 60)
        assert holders
        assert now()["request_counts"] == {"total": 30, "completed": 30, "failed": 0}
        answers = httpx.get(f"{server.url}/v1/files/{now()['output_file_id']}/content").text.splitlines()
        found = {line["custom_id"]: line["response"]["body"] for line in map(json.loads, answers)}
        assert len(answers) == len(found) == 30
        for place, prompt in enumerate(prompts):
            assert found[str(place)]["choices"][0]["token_ids"] == expected(prompt, 6)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
    finally:
        server.close()
