"""A tiny OpenAI server for the tests of clients: it says fixed words, slowly, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeOpenAI(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.words = ["one", " two", " three"]
        self.first_delay = self.delay = 0.0
        self.fail_every = 0  # each so-many-th answer is a 503
        self.cut_every = 0  # … ends in the middle
        self.sent: list[list[float]] = []  # of each answer, when its words went out, by `time.perf_counter`
        self.tokenize = True
        self.reasoning: str | None = None
        self.running = self.most = self.answers = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeOpenAI

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._json(200, {"data": [{"id": "fake"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        if self.path == "/tokenize":
            if server.tokenize:
                return self._json(200, {"tokens": list(range(100, 150))})
            return self._json(404, {"error": {"message": "no such route"}})
        with server.lock:
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.answers += 1
            number = server.answers
            server.running += 1
            server.most = max(server.most, server.running)
        try:
            if server.fail_every and number % server.fail_every == 0:
                return self._json(503, {"error": {"message": "the queue\nis full"}})
            self._stream(body, cut=bool(server.cut_every) and number % server.cut_every == 0)
        finally:
            with server.lock:
                server.running -= 1

    def _stream(self, body: dict[str, Any], cut: bool) -> None:
        chat = self.path.endswith("/chat/completions")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if chat:
            self._event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        time.sleep(self.server.first_delay)
        if self.server.reasoning and chat:
            self._event({"choices": [{"delta": {"reasoning_content": self.server.reasoning}, "finish_reason": None}]})
        sent: list[float] = []
        self.server.sent.append(sent)
        for i, word in enumerate(self.server.words):
            if i:
                time.sleep(self.server.delay)
            sent.append(time.perf_counter())
            choice: Any = {"delta": {"content": word}} if chat else {"text": word}
            self._event({"choices": [choice | {"finish_reason": None}]})
            if cut:
                return
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self._event({"choices": [last | {"finish_reason": "length"}]})
        prompt = body["messages"] if chat else body["prompt"]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(self.server.words)}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: Any) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def fake_openai() -> Iterator[FakeOpenAI]:
    server = FakeOpenAI()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
