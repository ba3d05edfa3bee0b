"""A server of several front-end processes as its clients and its operator have it."""

from __future__ import annotations

import concurrent.futures
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from yardmaster.tests.server.hub.running import Server, bearer, expected, token_ids

KEYS = """keys:
  - {name: free, key: key-free-of-limits}
  - {name: few, key: key-with-few-requests, requests_per_minute: 5}
  - {name: alone, key: key-for-one-at-once, max_concurrent: 1}
  - {name: ops, key: key-of-an-operator, admin: true}
"""


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
    server.wait_until(lambda: server.metric("num_requests_running") == 1, 5)
    aborted = server.metric("request_success_total", finished_reason="abort")
    lines.close()  # type: ignore[attr-defined]
    server.wait_until(lambda: server.metric("num_requests_running") == 0, 5)
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
    server.wait_until(lambda: server.metric("key_sequences_running", key="alone") == 0, 5)
    server.wait_until(lambda: server.post("key-for-one-at-once").status_code == 200, 5)
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
    server.wait_until(lambda: server.metric("num_requests_running") == 1, 5)
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

    def concurrent() -> int:
        return sum(int(key["usage"]["concurrent"]) for key in ask("GET", "keys").json()["data"])

    assert [key["name"] for key in ask("GET", "keys").json()["data"]] == ["free", "few", "alone", "ops"]
    server.wait_until(lambda: concurrent() == 0, 5)  # the test before this one has just left a stream
    drained = ask("POST", "drain").json()
    assert drained == {"draining": True, "requests": 0, "sequences_running": 0, "sequences_waiting": 0}
    assert [server.post("key-free-of-limits").status_code for _ in range(3)] == 3 * [503]
    assert ask("DELETE", "drain").json()["draining"] is False
    server.wait_until(lambda: httpx.get(f"{server.url}/ready").status_code == 200, 5)
    assert [server.post("key-free-of-limits").status_code for _ in range(3)] == 3 * [200]
    keys_file.write_text(KEYS + "  - {name: new, key: key-that-is-new}\n")
    server.process.send_signal(signal.SIGHUP)
    server.wait_until(lambda: "5 keys" in server.output, 5)
    assert [server.post("key-that-is-new").status_code for _ in range(3)] == 3 * [200]
    keys_file.write_text(KEYS)
    assert ask("POST", "keys/reload").json() == {"keys": 4}
    server.wait_until(lambda: {server.post("key-that-is-new").status_code for _ in range(3)} == {401}, 5)
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
