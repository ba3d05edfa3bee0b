"""An engine of no model and the queue before it, as the tests of fair queueing drive them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yardmaster.engine.client import EngineDead, EngineOverloaded
from yardmaster.engine.live import Stream
from yardmaster.engine.messages import RequestOutput, Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.fair.client import FairClient
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.fair.stream import FairStream
from yardmaster.server.fair.tenant import CALLER, Caller
from yardmaster.server.http.errors import ApiError


class Engine:
    """Runs what it is given only as far as a test says: `give`. `full` times it says that it has no place."""

    def __init__(self) -> None:
        self.dead: str | None = None
        self.ready = True
        self.max_model_len = 10_000
        self.full = 0
        self.running: dict[str, Stream] = {}
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.die("stopped")

    async def submit(self, request: Submit) -> AsyncIterator[RequestOutput]:
        if self.dead is not None:
            raise EngineDead(self.dead)
        if self.full:
            self.full -= 1
            raise EngineOverloaded("full", retry_after=60)
        assert request.request_id not in self.running
        self.submitted.append(request)
        stream = self.running[request.request_id] = Stream(lambda: None)
        return stream

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        if (stream := self.running.pop(request_id, None)) is not None:
            stream.push(RequestOutput(request_id=request_id, finish_reason="abort"))

    def give(self, request_id: str, tokens: int, finish: Any = None) -> None:
        stream = self.running[request_id] if finish is None else self.running.pop(request_id)
        stream.push(RequestOutput(request_id=request_id, token_ids=[1] * tokens, finish_reason=finish))

    def die(self, reason: str) -> None:
        self.dead = reason
        for stream in self.running.values():
            stream.fail(reason)
        self.running.clear()

    def on_stats(self, listener: Any) -> None: ...

    def on_report(self, listener: Any) -> None: ...


class Yard:
    """A FairClient over such an engine, with keys as given, a clock that stands, and a reader for each request."""

    def __init__(self, folder: Path, keys: dict[str, str], **bounds: int) -> None:
        self.now = 100.0
        self.file = folder / "keys.yaml"
        self.write(keys)
        self.keys = Keyring(self.file, lambda: self.now)
        self.engine = Engine()
        bounds = {"max_running": 2, "max_waiting": 100, "max_starting": 1 << 30, "step_tokens": 1 << 20} | bounds
        self.client = FairClient(self.engine, self.keys, **bounds)  # type: ignore[arg-type]
        self.ends: dict[str, str] = {}
        self.readers: dict[str, asyncio.Task[None]] = {}

    def write(self, keys: dict[str, str]) -> None:
        lines = [f"  - {{name: {name}, key: key-of-{name}, {rest}}}" for name, rest in keys.items()]
        self.file.write_text("keys:\n" + "\n".join(lines))

    @contextmanager
    def caller(self, name: str, timeout: float | None = None) -> Iterator[Caller]:
        caller = self.keys.tenants[name].enter(None if timeout is None else self.now + timeout)
        token = CALLER.set(caller)
        try:
            yield caller
        finally:
            CALLER.reset(token)
            caller.drop()

    async def submit(
        self,
        name: str,
        number: str,
        prompt: int = 10,
        answer: int = 10,
        priority: int = 0,
        timeout: float | None = None,
    ) -> FairStream:
        with self.caller(name, timeout):
            return await self.enter(f"{name}-{number}", prompt, answer, priority)

    async def enter(self, request_id: str, prompt: int = 10, answer: int = 10, priority: int = 0) -> FairStream:
        params = SamplingParams(max_tokens=answer, seed=0)
        request = Submit(request_id=request_id, prompt_token_ids=[7] * prompt, params=params, priority=priority)
        stream = await self.client.submit(request)
        self.readers[request_id] = asyncio.create_task(self._read(request_id, stream))
        await settled()
        return stream

    async def _read(self, request_id: str, stream: FairStream) -> None:
        tokens = 0
        try:
            async for output in stream:
                assert request_id not in self.ends
                tokens += len(output.token_ids)
                if output.finish_reason is not None:
                    self.ends[request_id] = f"{output.finish_reason} {tokens}"
        except (EngineDead, ApiError) as error:
            self.ends[request_id] = getattr(error, "code", None) or "dead"

    async def give(self, request_id: str, tokens: int, finish: Any = None) -> None:
        self.engine.give(request_id, tokens, finish)
        await settled()

    @property
    def order(self) -> list[str]:
        return [request.request_id for request in self.engine.submitted]

    def assert_idle(self) -> None:
        client = self.client
        assert (client._running, client._starting, len(client._queue), client._live) == (0, 0, 0, {})
        assert client._pause is None
        for tenant in self.keys.everyone:
            assert (tenant.concurrent, tenant.running, tenant.waiting) == (0, 0, 0), tenant.spec


async def settled() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


TWO = {"a": "weight: 1", "b": "weight: 1"}
