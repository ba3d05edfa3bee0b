"""What the front end costs: HTTP, templates, detokenizing and server-sent events around an engine that costs nothing.

    python bench/frontend.py --streams 1 8 64

The server runs in a process of its own, with the real application under uvicorn; this process is the client, which
does no more than split the stream into events. Two measurements, each for several numbers of streams at once:
- rate: the next token is there when the last one has been taken, so that every token is an event of its own and
  nothing can be merged. Tokens a second through the whole server, and its CPU time a token.
- paced: every engine gives a token each `--interval` ms, to a timetable whose start it tells in the first output.
  Added milliseconds a token: arrival at the client after the token's due time. Tokens an event are more than one
  where writing fell behind the timetable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import tokenizers
import uvicorn
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from yardmaster.engine.messages import EngineStats, RankReport, RequestOutput, Submit
from yardmaster.server.http.app import create_app
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.http.run import uvicorn_config
from yardmaster.server.http.service import Service
from yardmaster.server.metrics import Metrics
from yardmaster.server.text.template import ChatTemplate
from yardmaster.server.text.tokenizer import Tokenizer

CONTROL = ("<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>")
TEMPLATE = """{%- for message in messages %}
{{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
MODEL = "free"


class FreeEngine:
    """Gives the letter "x", `max_tokens` times. Paced when the request's seed, in microseconds, is above zero."""

    dead = None
    ready = True
    max_model_len = 1 << 20

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._header = tokenizer.encode_trusted("<|channel|>final<|message|>")
        (self._letter,) = tokenizer.encode("x")

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def submit(self, request: Submit) -> AsyncIterator[RequestOutput]:
        return self._play(request)

    async def _play(self, request: Submit) -> AsyncIterator[RequestOutput]:
        loop, interval = asyncio.get_running_loop(), (request.params.seed or 0) / 1e6
        due = loop.time() + interval
        start = self._tokenizer.encode(f"{due} ")
        yield RequestOutput(request_id=request.request_id, token_ids=[*self._header, *start])
        count = request.params.max_tokens
        for place in range(count):
            # Late tokens of a timetable come without a pause between them, as from a process that runs on regardless.
            pause = due + place * interval - loop.time() if interval else 0
            if pause > 0 or not interval:
                await asyncio.sleep(pause)
            reason: Any = "length" if place == count - 1 else None
            yield RequestOutput(request_id=request.request_id, token_ids=[self._letter], finish_reason=reason)

    async def abort(self, request_id: str) -> None: ...

    def on_stats(self, listener: Callable[[int, EngineStats], None]) -> None: ...

    def on_report(self, listener: Callable[[RankReport], None]) -> None: ...


def serve(port: int) -> None:
    alphabet = {character: place for place, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL])
    with tempfile.TemporaryDirectory() as folder:
        backend.save(str(Path(folder) / "tokenizer.json"))
        tokenizer = Tokenizer(Path(folder))
    service = Service(
        client=FreeEngine(tokenizer),
        tokenizer=tokenizer,
        template=ChatTemplate(TEMPLATE, tokenizer),
        metrics=Metrics(MODEL, "bench"),
        vocab_size=tokenizer.vocab_size,
        eos_token_ids=(),
    )
    config = HttpConfig((MODEL,), port=port)
    uvicorn.Server(uvicorn_config(create_app(service, config), config)).run()


async def stream(port: int, tokens: int, interval: float) -> tuple[int, list[float]]:
    """One request to its end: the number of events with content, and each token's lateness in seconds if paced."""
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": "go"}],
            "max_tokens": tokens,
            "seed": int(interval * 1e6),
            "stream": True,
        }
    )
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    events, late, due, seen = 0, [], None, 0
    while (line := await reader.readline()) != b"data: [DONE]\n":
        now = time.monotonic()
        if not line.startswith(b"data: "):
            continue
        content = json.loads(line[6:])["choices"][0]["delta"].get("content")
        if not content:
            continue
        events += 1
        if due is None:
            begun, _, content = content.partition(" ")
            due = float(begun)
        for _ in content:
            if interval:
                late.append(now - (due + seen * interval))
            seen += 1
    writer.close()
    if seen != tokens:
        raise RuntimeError(f"{seen} tokens came of {tokens}")
    return events, late


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(port: int, pid: int, streams: int, tokens: int, interval: float) -> dict[str, Any]:
    begun, busy = time.monotonic(), cpu_seconds(pid)
    results = await asyncio.gather(*(stream(port, tokens, interval) for _ in range(streams)))
    seconds, busy = time.monotonic() - begun, cpu_seconds(pid) - busy
    late = sorted(1e3 * each for _, every in results for each in every)
    total = streams * tokens
    found: dict[str, Any] = {"streams": streams, "tokens": total, "tokens_per_s": round(total / seconds)}
    found["server_cpu_us_per_token"] = round(1e6 * busy / total, 1)
    found["tokens_per_event"] = round(total / sum(events for events, _ in results), 2)
    if late:
        found["interval_ms"] = 1e3 * interval
        found["added_ms_p50"] = round(statistics.median(late), 3)
        found["added_ms_p99"] = round(late[int(0.99 * (len(late) - 1))], 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=20_000, help="per measurement, over all streams")
    parser.add_argument("--interval", type=float, default=20.0, help="ms between the tokens of a paced stream")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a paced measurement")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        wait_for(port, server)
        asyncio.run(measure(port, server.pid, 1, 500, 0))
        for streams in options.streams:
            rate = asyncio.run(measure(port, server.pid, streams, options.tokens // streams, 0))
            print(json.dumps({"measure": "rate", **rate}), flush=True)
        for streams in options.streams:
            interval = options.interval / 1e3
            paced = asyncio.run(measure(port, server.pid, streams, int(options.seconds / interval), interval))
            print(json.dumps({"measure": "paced", **paced}), flush=True)
    finally:
        server.terminate()
        server.wait(10)
    return None


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the server did not start")


if __name__ == "__main__":
    main()
