"""Models, files, batches with what they write, token counts, and errors of every kind: every body of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.server.batch.config import BatchConfig
from yardmaster.server.batch.lines import LineError
from yardmaster.server.batch.records import Batch
from yardmaster.server.batch.runner import running
from yardmaster.server.batch.store import Store
from yardmaster.server.http.app import create_app
from yardmaster.server.http.config import HttpConfig
from yardmaster.tests.server.specs.scenes import MESSAGES
from yardmaster.tests.server.specs.wire import talk

Hold = Callable[[str, Any], Any]

KEY = "sk-secret-0123456789"
CHAT = {"model": "test-model", "messages": MESSAGES}


def line(custom_id: str, **body: Any) -> bytes:
    asked = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": CHAT | body}
    return json.dumps(asked).encode() + b"\n"


def test_models(plain: Any, hold: Hold) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        models = hold("models", (await client.get("/v1/models")).json())
        for card in models["data"]:
            hold("model", card)
            assert hold("model", (await client.get(f"/v1/models/{card['id']}")).json()) == card
        hold("error", (await client.get("/v1/models/another")).json())

    talk(plain.app(), say)
    plain.engine.ready = False
    talk(plain.app(), say)


def test_message_tokens(harmony: Any, hold: Hold) -> None:
    async def say(client: httpx.AsyncClient) -> None:
        hold("message tokens", (await client.post("/v1/messages/count_tokens", json=CHAT)).json())

    talk(harmony.app(), say)


def test_files_and_batches(plain: Any, hold: Hold, tmp_path: Path) -> None:
    """Uploaded, run, read back: with lines that are answered and lines that are refused."""
    plain.engine.script = plain.say("Hello")

    async def run() -> None:
        batches = BatchConfig(str(tmp_path / "batches"), poll=0.01, retry=0.05)
        config, service = HttpConfig(("test-model",), batch=batches), plain.service()
        async with running(service, config, asyncio.Event()) as store:
            transport = httpx.ASGITransport(create_app(service, config, None, store), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test/v1", timeout=20) as client:
                await order(client)

    async def order(client: httpx.AsyncClient) -> None:
        for kind in ("files", "batches"):
            hold(kind, (await client.get(f"/{kind}")).json())
        upload = {"file": ("in.jsonl", line("a") + line("b", temperature=-1))}
        file = hold("file", (await client.post("/files", files=upload, data={"purpose": "batch"})).json())
        assert hold("file", (await client.get(f"/files/{file['id']}")).json()) == file
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = hold("batch", (await client.post("/batches", json=asked | {"metadata": {"a": "b"}})).json())
        with anyio.fail_after(10):
            while batch["status"] != "completed":
                await asyncio.sleep(0.02)
                batch = hold("batch", (await client.get(f"/batches/{batch['id']}")).json())
        for name, kind, status in (("output_file_id", "chat", 200), ("error_file_id", "error", 400)):
            (written,) = (await client.get(f"/files/{batch[name]}/content")).text.splitlines()
            answer = json.loads(written)
            assert set(answer) == {"id", "custom_id", "response", "error"}
            assert answer["error"] is None
            assert set(answer["response"]) == {"status_code", "request_id", "body"}
            assert answer["response"]["status_code"] == status
            hold(kind, answer["response"]["body"])
        page = hold("files", (await client.get("/files", params={"limit": 2})).json())
        assert page["has_more"]
        hold("batches", (await client.get("/batches")).json())
        deleted = hold("file deleted", (await client.delete(f"/files/{file['id']}")).json())
        assert deleted["deleted"]
        refused = [
            await client.post("/files", files={"file": ("in", b"{}")}, data={"purpose": "batch"}),
            await client.post("/files", files={"file": ("in", line("a"))}, data={"purpose": "vision"}),
            await client.post("/files", content=b"no form"),
            await client.get("/files/file-none"),
            await client.get("/files/file-none/content"),
            await client.delete("/files/file-none"),
            await client.get("/files", params={"limit": "0"}),
            await client.post("/batches", json=asked | {"endpoint": "/v1/embeddings"}),
            await client.post("/batches", json=asked),  # its input is deleted
            await client.get("/batches/batch_none"),
            await client.post(f"/batches/{batch['id']}/cancel"),
        ]
        for answer in refused:
            assert 400 <= answer.status_code < 500
            hold("error", answer.json())

    anyio.run(run)


def test_a_batch_of_every_status(plain: Any, hold: Hold, tmp_path: Path) -> None:
    """As the store words them, with every time and both files."""
    store = Store(BatchConfig(str(tmp_path / "batches")))
    try:
        batch = Batch(
            id="batch_a", owner="", endpoint="/v1/completions", input_file_id="file-in", output_file_id="file-out",
            error_file_id="file-error", created_at=1, expires_at=2, keep_output=3,
        )  # fmt: skip
        times = {f"{name}_at": 7 for name in ("in_progress", "finalizing", "completed", "cancelling", "cancelled")}
        errors = json.dumps([{"code": "a", "message": "b", "param": None, "line": None}])
        hold("batch", batch.body)
        for status in ("in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled", "failed"):
            hold("batch", replace(batch, status=status, output_bytes=5, error_bytes=5, total=3, **times).body)
        hold("batch", replace(batch, status="failed", failed_at=7, errors=errors).body)
        assert str(LineError("a", "b")) == "b"
    finally:
        store.close()


def test_errors(plain: Any, hold: Hold) -> None:
    """Refused by each of the layers, on each of the routes."""
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses/input_tokens")
    bodies: list[Any] = [b"", b"{", b"[]", b'{"messages": 1}', b'{"model": "another"}', b"\xff", b"[" * 1000]

    async def wrong(client: httpx.AsyncClient) -> None:
        for path in (*paths, "/v1/messages", "/v1/messages/count_tokens"):
            kind = "message error" if path.startswith("/v1/messages") else "error"
            answers = [await client.post(path, content=body) for body in bodies]
            answers += [await client.get(path) if path != paths[3] else await client.put(path)]
            for answer in answers:
                assert 400 <= answer.status_code < 500, answer.text
                hold(kind, answer.json())
        for path in ("/v1", "/v1/embeddings", "/v1/files", "/v1/batches/x/cancel", "/v1/responses/none"):
            hold("error", (await client.get(path)).json())

    talk(plain.app(), wrong)
    talk(plain.app(api_keys=(KEY,)), wrong)

    async def refused(client: httpx.AsyncClient) -> None:
        for path, body in (
            (paths[0], CHAT), (paths[1], {"prompt": "a"}), (paths[2], {"input": "a"}),
            ("/v1/messages", CHAT | {"max_tokens": 5}),
        ):  # fmt: skip
            for stream in (False, True):
                answer = await client.post(path, json=body | {"stream": stream})
                assert answer.status_code >= 429, answer.text
                hold("message error" if path == "/v1/messages" else "error", answer.json())

    for failure in (EngineDead("rank 1"), EngineOverloaded("full"), RuntimeError("a bug")):
        plain.engine.refuse = failure
        talk(plain.app(), refused)
    plain.engine.refuse = None
    plain.engine.ready = False
    talk(plain.app(), refused)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 431, 500, 503, 504])
def test_an_error_of_every_status(hold: Hold, status: int) -> None:
    from yardmaster.server.http.errors import ApiError
    from yardmaster.server.messages.errors import reworded

    error = ApiError(status, "What is wrong.", param="a", code="b")
    hold("error", error.body)
    hold("error", ApiError(status, "What is wrong.").body)
    hold("message error", reworded(status, error.body["error"], "r")[1])
