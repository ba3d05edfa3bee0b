"""A server of several front-end processes when one of its processes dies."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from yardmaster.tests.server.hub.running import SLOW_TOKEN, Server, body, expected, token_ids


def read_out(streams: list[Iterator[str]], told: list[list[str]]) -> list[str]:
    """Add to `told` all that is still to come of each stream. How each ended: its last event, or "lost"."""
    ends: list[str] = []
    for events, stream in zip(told, streams, strict=True):
        try:
            events += list(stream)
            ends.append(events[-1])
        except httpx.HTTPError:
            ends.append("lost")
    return ends


def test_one_is_killed_and_the_server_goes_on_until_it_is_told_to_end(model: Path) -> None:
    server = Server(model, "2")
    try:
        assert len(server.doors) == 2
        prompts = [(SLOW_TOKEN, 1), (20, 2), (30, 3), (40, 4)]  # one makes the steps of all slow
        streams = [server.stream("any", 50, prompt) for prompt in prompts]
        told = [[next(each)] for each in streams]
        assert server.metric("num_requests_running") == 4
        seen = server.metric("time_to_first_token_seconds_count")  # now the hub, too, knows what each has counted
        assert seen == 4
        server.doors[0].kill()
        ends = read_out(streams, told)
        assert sorted(ends) == ["data: [DONE]", "data: [DONE]", "lost", "lost"]
        for prompt, events, end in zip(prompts, told, ends, strict=True):
            if end != "lost":
                assert token_ids(events) == expected(prompt, 50)
        assert server.metric("num_requests_running") == 0
        assert server.metric("generation_tokens_total") < 4 * 50  # what nobody reads was aborted
        assert server.metric("time_to_first_token_seconds_count") == seen
        assert server.post("any").status_code == 200
        server.wait_until(lambda: server.metric("api_servers") == 2, 30)
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


def test_one_that_hangs_is_ended_and_another_one_started(model: Path) -> None:
    server = Server(model, "2", "-", "-", "3")
    try:
        streams = [server.stream("any", 200, (SLOW_TOKEN, place)) for place in range(2)]
        told = [[next(each)] for each in streams]
        hung, sound = server.doors
        hung.suspend()
        ends = read_out(streams, told)
        assert sorted(ends) == ["data: [DONE]", "lost"]
        assert token_ids(told[ends.index("data: [DONE]")]) == expected((SLOW_TOKEN, ends.index("data: [DONE]")), 200)
        server.wait_until(lambda: server.metric("api_servers") == 2, 30)
        assert server.metric("api_server_restarts_total") == 1
        assert "a front end has said nothing for 3 s" in server.output
        assert not hung.is_running()
        assert sound.is_running()
        assert [server.post("any").status_code for _ in range(4)] == 4 * [200]
    finally:
        server.close()


@pytest.mark.slow
def test_under_torchrun_a_dead_rank_ends_all(model: Path) -> None:
    server = Server(
        model, "2", launcher=(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    )
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

        server.wait_until(lambda: now()["request_counts"]["completed"] >= 5, 30)
        holders = [door for door in server.doors if any("runner.lock" in f.path for f in door.open_files())]
        server.doors[0].kill()
        server.wait_until(lambda: server.metric("api_servers") == 2, 30)
        server.doors[0].kill()  # whichever it was that ran them, it is dead by now, or the next one
        server.wait_until(lambda: now()["status"] == "completed", 60)
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
