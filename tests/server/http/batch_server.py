"""A server with a batch directory, and what the tests of batches ask of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai

from yardmaster.engine.messages import RequestOutput
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.http.service import Service
from yardmaster.tests.server.server_thread import ServerThread

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Served(ServerThread):
    """A server over the stage's engine, with a batch directory."""

    def __init__(self, stage: Any, config: HttpConfig, keyring: Keyring | None) -> None:
        service = Service(
            client=stage.engine,
            tokenizer=stage.tokenizer,
            template=None if stage.chat else stage.template,
            chat=stage.chat,
            metrics=stage.metrics,
            vocab_size=stage.tokenizer.vocab_size,
            eos_token_ids=(stage.eos,),
        )
        super().__init__(service, config, keyring)


def sdk(served: Served, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url + "/v1", api_key=key, max_retries=0, timeout=20)


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": custom_id}]} if url == CHAT else {"prompt": custom_id}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "test-model", **asked, **body}}


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def order(client: openai.OpenAI, *lines: Any, endpoint: str = CHAT, **fields: Any) -> Any:
    file = client.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields)  # type: ignore[call-overload]


def until(client: openai.OpenAI, batch: Any, *statuses: str) -> Any:
    deadline = time.monotonic() + 10
    while True:
        now = client.batches.retrieve(batch.id)
        if now.status in statuses:
            return now
        assert time.monotonic() < deadline, now
        time.sleep(0.02)


def rows(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id
    found = [json.loads(each) for each in client.files.content(file_id).text.splitlines()]
    assert len({each["custom_id"] for each in found}) == len(found)
    return {each["custom_id"]: each for each in found}


def echo(stage: Any, pause: float = 0.0) -> Callable[[Any], Iterator[Any]]:
    """A model that says its prompt again."""

    def script(submit: Any) -> Iterator[Any]:
        if pause:
            yield pause
        yield RequestOutput(request_id=submit.request_id, token_ids=submit.prompt_token_ids)
        yield RequestOutput(request_id=submit.request_id, token_ids=[stage.eos], finish_reason="stop")

    return script
