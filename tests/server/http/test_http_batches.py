"""/v1/batches over a real socket: from file to answers, cancellation, and low priority."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from yardmaster.engine.messages import EngineStats, RequestOutput
from yardmaster.server.batch.background import PRIORITY
from yardmaster.tests.server.http.batch_server import (
    CHAT,
    TEXT,
    echo,
    jsonl,
    line,
    order,
    rows,
    sdk,
    until,
)


def test_openais_sdk_from_file_to_content(serve: Any, plain: Any, tmp_path: Path) -> None:
    plain.engine.script = echo(plain)
    client = sdk(serve())
    path = tmp_path / "meine Fragen é.jsonl"
    wrong = line("bad", temperature=-1)
    other = line("other")
    other["body"]["model"] = "gpt-nobody"
    path.write_bytes(jsonl(line("one"), wrong, line("zwei ü🙂", n=2), other))
    with path.open("rb") as opened:
        file = client.files.create(file=opened, purpose="batch")
    assert (file.object, file.purpose, file.filename, file.bytes, file.status) == (
        "file", "batch", path.name, path.stat().st_size, "processed",
    )  # fmt: skip
    assert file.expires_at == file.created_at + 30 * 24 * 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == path.read_bytes()
    batch = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"job": "night"}
    )
    assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", CHAT)
    assert (batch.input_file_id, batch.completion_window, batch.metadata) == (file.id, "24h", {"job": "night"})
    assert batch.expires_at == batch.created_at + 24 * 3600
    done = until(client, batch, "completed")
    assert done.request_counts.model_dump() == {"total": 4, "completed": 2, "failed": 2}
    times = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert times == sorted(times)
    assert (done.failed_at, done.cancelled_at, done.errors) == (None, None, None)

    output = rows(client, done.output_file_id)
    assert set(output) == {"one", "zwei ü🙂"}
    choices = output["zwei ü🙂"]["response"]["body"]["choices"]
    assert [choice["message"]["content"] for choice in choices] == ["user: zwei ü🙂\nassistant: "] * 2
    assert output["one"]["error"] is None
    assert output["one"]["response"]["status_code"] == 200
    assert output["one"]["response"]["body"]["object"] == "chat.completion"
    usage = [each["response"]["body"]["usage"] for each in output.values()]
    assert done.usage.total_tokens == sum(each["total_tokens"] for each in usage) > 0
    errors = rows(client, done.error_file_id)
    assert {name: each["response"]["status_code"] for name, each in errors.items()} == {"bad": 400, "other": 404}
    assert errors["bad"]["response"]["body"]["error"]["param"] == "temperature"

    listed = client.files.list()
    assert [each.id for each in listed] == [*reversed([file.id, done.output_file_id, done.error_file_id])]
    assert [each.id for each in client.files.list(purpose="batch", order="asc", limit=1)] == [file.id]
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert [each.id for each in client.batches.list(limit=1)] == [batch.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such file"):
        client.files.content(file.id)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    # All of it came behind everybody else.
    assert {submit.priority for submit in plain.engine.submitted} == {PRIORITY}


def test_completions_and_the_other_ways_to_give_a_file(serve: Any, plain: Any) -> None:
    plain.engine.script = echo(plain)
    client = sdk(serve())
    file = client.files.create(
        file=jsonl(line("a", TEXT)), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    batch = client.batches.create(
        input_file_id=file.id, endpoint=TEXT, completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )  # fmt: skip
    done = until(client, batch, "completed")
    assert rows(client, done.output_file_id)["a"]["response"]["body"]["choices"][0]["text"] == "a"
    assert done.error_file_id is None
    output = client.files.retrieve(done.output_file_id)
    assert output.expires_at == output.created_at + 7200


def test_a_file_for_another_endpoint_fails_with_every_line_named(serve: Any) -> None:
    client = sdk(serve())
    failed = until(client, order(client, line("a", TEXT), line("b"), line("c", TEXT)), "failed", "completed")
    assert failed.status == "failed"
    assert [(error.code, error.line, error.param) for error in failed.errors.data] == [
        ("mismatched_url", 1, "url"), ("mismatched_url", 3, "url"),
    ]  # fmt: skip
    assert failed.failed_at
    assert failed.output_file_id is failed.error_file_id is None


def test_cancelling_keeps_what_is_answered_and_aborts_the_rest(serve: Any, plain: Any) -> None:
    def number(submit: Any) -> int:
        return int(plain.tokenizer.decode(submit.prompt_token_ids, True))

    def script(submit: Any) -> Iterator[Any]:
        yield from [60.0] if number(submit) > 2 else []
        yield from echo(plain)(submit)

    plain.engine.script = script
    client = sdk(serve(max_running=3))
    batch = order(client, *(line(str(n), TEXT) for n in range(9)), endpoint=TEXT)
    deadline = time.monotonic() + 10
    while client.batches.retrieve(batch.id).request_counts.completed < 3 or len(plain.engine.submitted) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(openai.ConflictError, match=batch.id):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    over = until(client, batch, "cancelled")
    assert over.request_counts.model_dump() == {"total": 9, "completed": 3, "failed": 0}
    assert over.cancelling_at <= over.cancelled_at
    assert set(rows(client, over.output_file_id)) == {"0", "1", "2"}
    errors = rows(client, over.error_file_id)
    assert set(errors) == set("345678")
    assert {each["error"]["code"] for each in errors.values()} == {"batch_cancelled"}
    assert {each["response"] for each in errors.values()} == {None}
    live = {submit.request_id for submit in plain.engine.submitted if number(submit) > 2}
    assert len(live) == 3
    assert live <= set(plain.engine.aborted)
    with pytest.raises(openai.ConflictError, match="cancelled"):
        client.batches.cancel(batch.id)


def test_expiring(serve: Any, plain: Any) -> None:
    def script(submit: Any) -> Iterator[Any]:
        yield from [60.0] if plain.tokenizer.decode(submit.prompt_token_ids, True) != "0" else []
        yield from echo(plain)(submit)

    plain.engine.script = script
    client = sdk(serve(window=3, max_running=2))
    over = until(client, order(client, *(line(str(n), TEXT) for n in range(4)), endpoint=TEXT), "expired", "completed")
    assert over.status == "expired"
    assert over.expired_at >= over.expires_at
    assert over.request_counts.model_dump() == {"total": 4, "completed": 1, "failed": 0}
    assert set(rows(client, over.output_file_id)) == {"0"}
    assert {each["error"]["code"] for each in rows(client, over.error_file_id).values()} == {"batch_expired"}


def test_an_engine_that_refuses_is_asked_again(serve: Any, plain: Any) -> None:
    """A full queue, a model that loads and one that is stopping are not the line's fault."""
    plain.engine.ready = False
    served = serve()
    client = sdk(served)
    batch = order(client, line("a", TEXT), line("b", TEXT), endpoint=TEXT)
    time.sleep(0.1)
    assert client.batches.retrieve(batch.id).request_counts.completed == 0
    plain.engine.refuse = plain.EngineOverloaded("full", 0)
    plain.engine.ready = True
    time.sleep(0.1)
    stopping = lambda submit: [RequestOutput(request_id=submit.request_id, finish_reason="abort")]  # noqa: E731
    plain.engine.script, plain.engine.refuse = stopping, None
    time.sleep(0.1)
    plain.engine.script = echo(plain)
    done = until(client, batch, "completed")
    assert done.request_counts.model_dump() == {"total": 2, "completed": 2, "failed": 0}
    # Something unforeseen is an error of that line alone.
    plain.engine.script = lambda submit: (
        [RuntimeError("boom")] if 99 in submit.prompt_token_ids else echo(plain)(submit)
    )
    ids = line("c", TEXT)
    ids["body"]["prompt"] = [99]
    done = until(client, order(client, ids, line("d", TEXT), endpoint=TEXT), "completed")
    assert done.request_counts.model_dump() == {"total": 2, "completed": 1, "failed": 1}
    assert rows(client, done.error_file_id)["c"]["response"]["status_code"] == 500


def test_at_most_so_many_at_once_and_none_while_others_wait(serve: Any, plain: Any) -> None:
    live = most = 0

    def script(submit: Any) -> Iterator[Any]:
        nonlocal live, most
        live += 1
        most = max(most, live)
        yield 0.02
        yield RequestOutput(request_id=submit.request_id, token_ids=submit.prompt_token_ids)
        live -= 1
        yield RequestOutput(request_id=submit.request_id, token_ids=[plain.eos], finish_reason="stop")

    plain.engine.script = script
    served = serve(max_running=5)
    client = sdk(served)
    busy = EngineStats(running=4, waiting=1, kv_usage=0.5, preemptions=0, steps=1, prompt_tokens=1, generation_tokens=1)
    while not plain.engine.stats:
        time.sleep(0.01)
    for listener in plain.engine.stats:
        listener(0, busy)
    batch = order(client, *(line(f"x{n}", TEXT, n=2) for n in range(20)), endpoint=TEXT)
    until(client, batch, "in_progress")
    time.sleep(0.2)
    assert most == 0
    live_answer = client.completions.create(model="test-model", prompt="now")
    assert live_answer.choices[0].text == "now"
    for listener in plain.engine.stats:
        listener(0, msgspec.structs.replace(busy, waiting=0))
    done = until(client, batch, "completed")
    assert done.request_counts.completed == 20
    assert 2 <= most <= 5
    assert [submit.priority for submit in plain.engine.submitted][:1] == [0]


def test_small_batches_do_not_wait_for_large_ones(serve: Any, plain: Any) -> None:
    plain.engine.script = echo(plain, 0.01)
    client = sdk(serve(max_running=2))
    large = order(client, *(line(f"l{n}", TEXT) for n in range(400)), endpoint=TEXT)
    until(client, large, "in_progress")
    until(client, order(client, *(line(f"s{n}", TEXT) for n in range(4)), endpoint=TEXT), "completed")
    assert client.batches.retrieve(large.id).status == "in_progress"


def test_the_servers_own_latencies_do_not_count_batches(serve: Any, plain: Any) -> None:
    plain.engine.script = echo(plain)
    served = serve()
    client = sdk(served)
    until(client, order(client, line("a", TEXT), endpoint=TEXT), "completed")
    text = httpx.get(served.url + "/metrics").text
    assert "yardmaster_time_to_first_token_seconds_count 0.0" in text
    assert 'handler="/v1/completions"' not in text
