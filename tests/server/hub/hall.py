"""A hub and its front ends in one process, over an engine of no model."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from yardmaster.engine.live import Stream
from yardmaster.engine.messages import RequestOutput, Submit
from yardmaster.engine.sampling_params import SamplingParams
from yardmaster.server.fair.client import FairClient
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.hub.client import HubClient
from yardmaster.server.hub.desk import Desk
from yardmaster.server.hub.keys import DoorKeys
from yardmaster.server.hub.messages import EngineState, News, to_door
from yardmaster.server.hub.messages import Keys as KeysMessage
from yardmaster.server.hub.wire import Wire


class Engine:
    """An EngineClient whose outputs the test gives."""

    dead = None
    ready = True
    max_model_len = 512

    def __init__(self) -> None:
        self.refuse: Exception | None = None
        self.slow: asyncio.Event | None = None
        self.streams: dict[str, Stream] = {}
        self.asked: list[str] = []  # by their ids
        self.submitted: list[Submit] = []
        self.aborted: list[str] = []

    async def submit(self, request: Submit) -> Stream:
        self.asked.append(request.request_id)
        if self.slow is not None:
            await self.slow.wait()
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append(request)
        self.streams[request.request_id] = stream = Stream(lambda: None)
        return stream

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        if (stream := self.streams.pop(request_id, None)) is not None:
            stream.push(RequestOutput(request_id=request_id, finish_reason="abort"))

    def give(self, request_id: str, tokens: list[int], finish: Any = None) -> None:
        self.streams[request_id].push(RequestOutput(request_id=request_id, token_ids=tokens, finish_reason=finish))

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def on_stats(self, listener: Any) -> None: ...

    def on_report(self, listener: Any) -> None: ...


class Hall:
    """What a desk needs of a hub."""

    def __init__(self, engine: Any, keys: Keyring | None) -> None:
        self.client = engine
        self.keys = keys


class Pair:
    """A desk and a front end's client over a real socket pair."""

    def __init__(self, engine: Engine, keys: Keyring | None = None) -> None:
        self.engine = engine
        self.desk = Desk(Hall(engine if keys is None else fair(engine, keys), keys), 1)  # type: ignore[arg-type]
        self.news: list[News] = []
        self.wire: Wire[Any] = Wire(to_door, self._hear, lambda: self.client.lose())
        self.client = HubClient(self.wire.send)
        self.keys = DoorKeys(self.client)

    async def __aenter__(self) -> Pair:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await self.desk.open(ours, EngineState(True, 512, None))
        await self.wire.open(theirs)
        if self.desk._hall.keys is not None:
            ring = self.desk._hall.keys
            self.desk.wire.send(KeysMessage([tenant.spec for tenant in ring.tenants.values()], False))
        await settle(lambda: self.client.ready and (self.desk._hall.keys is None or self.keys.tenants))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.wire.close()
        await self.desk.wire.close()
        await asyncio.wait_for(self.desk.lost.wait(), 5)
        await self.desk.settled()

    def _hear(self, message: Any) -> None:
        if isinstance(message, News):
            self.news.append(message)
        if isinstance(message, KeysMessage):
            self.keys.take(message)
        else:
            self.client.hear(message)


def fair(engine: Engine, keys: Keyring) -> FairClient:
    return FairClient(engine, keys, max_running=64, max_waiting=64, max_starting=4096, step_tokens=512)


async def settle(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())  # type: ignore[arg-type]


def request(name: str) -> Submit:
    return Submit(request_id=name, prompt_token_ids=[1, 2, 3], params=SamplingParams(max_tokens=8, seed=1))
