"""The engine as the front end's process holds it: ranks in processes of their own, reached over the socket.

Enters: submissions and aborts, from one event loop. Leaves: each request's outputs, or EngineDead with the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from .channel import AGENT, FrontSocket
from .client import EngineDead, EngineOverloaded
from .config import EngineConfig
from .health import Cause, Health
from .live import LiveRequests, Stream
from .messages import (
    PROTOCOL_VERSION,
    Abort,
    EngineStats,
    Failure,
    FromEngine,
    Hello,
    Outputs,
    RankReport,
    Ready,
    Shutdown,
    Submit,
    ToEngine,
    Wake,
)

log = logging.getLogger(__name__)

_TICK = 0.2


class Ranks(Protocol):
    """The processes behind the socket, as far as the front end may know them."""

    def ended(self) -> str | None:
        """How their launcher ended, a sentence; None while it runs."""

    async def stop(self, orderly: bool) -> None:
        """Return when they are gone. `orderly`: they were told to leave; wait for that before using force."""


class ZmqEngineClient:
    """See `EngineClient`. `launch(address)` starts the ranks, or tells ranks that are there, once the socket is bound.

    `progress` takes lines for a person who waits for the start.
    """

    def __init__(
        self,
        config: EngineConfig,
        address: str,
        launch: Callable[[str], Ranks],
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._layout = config.parallel
        limits = config.scheduler
        self._live = LiveRequests(self._layout.dp, limits.max_num_seqs, limits.max_waiting, config.seed)
        self._health = Health(self._layout.world_size)
        self._address = address
        self._launch = launch
        self._progress = progress
        self._report_listeners: list[Callable[[RankReport], None]] = []
        self._ready: dict[int, Ready] = {}
        self._started = asyncio.Event()  # ready, dead or stopped
        self._ended = asyncio.Event()  # dead or stopped
        self._died: str | None = None
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: FrontSocket | None = None
        self._ranks: Ranks | None = None

    async def start(self) -> None:
        """Bind, launch, and wait until every rank is ready. Raises EngineDead; ValueError when it cannot bind."""
        if self._stopping:
            raise EngineDead(self.dead or "")
        self._socket = FrontSocket(self._address)
        self._ranks = self._launch(self._socket.address)
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_watch())]
        await self._started.wait()
        if self.dead is not None:
            raise EngineDead(self.dead)

    async def submit(self, request: Submit) -> Stream:
        if self._health.suspicion is not None:
            raise EngineDead(self._health.suspicion)
        if not self.ready and self.dead is None:
            raise EngineOverloaded("the engine is still starting", retry_after=5)
        idle = self._live.idle_groups()
        group, request, stream = self._live.admit(request, lambda: self._forget(request.request_id))
        self._send(group, request)
        for other in idle:
            if other != group:
                self._send(other, Wake())
        return stream

    async def abort(self, request_id: str) -> None:
        self._tell_abort(request_id, self._live.abort(request_id))

    async def stop(self) -> None:
        """Shut the engine down; live requests end with EngineDead. Returns when its processes are gone."""
        if self._stopping:
            return
        orderly = self.ready and self.dead is None
        self._stopping = True
        self._live.fail_all("the server is shutting down")
        self._started.set()
        self._ended.set()
        if orderly:
            for group in range(self._layout.dp):
                self._send(group, Shutdown())
        if self._ranks is not None:
            await self._ranks.stop(orderly)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def wait_dead(self) -> str | None:
        """Return when the engine has died, with the reason, or was stopped: None."""
        await self._ended.wait()
        return self._died

    @property
    def dead(self) -> str | None:
        return self._live.dead

    @property
    def ready(self) -> bool:
        return len(self._ready) == self._layout.world_size

    @property
    def max_model_len(self) -> int:
        """Known once the engine is ready."""
        return min((ready.max_model_len for ready in self._ready.values()), default=0)

    def on_stats(self, listener: Callable[[int, EngineStats], None]) -> None:
        self._live.stats_listeners.append(listener)

    def on_report(self, listener: Callable[[RankReport], None]) -> None:
        self._report_listeners.append(listener)

    def _send(self, group: int, message: ToEngine) -> None:
        """A leader that is not there is a symptom: the reason for it comes by another way."""
        if self._socket is None:
            raise EngineDead("the engine was not started")
        try:
            self._socket.send(self._layout.leaders()[group], message)
        except ConnectionError as error:
            self._health.suspect(Cause.SYMPTOM, str(error))

    def _forget(self, request_id: str) -> None:
        self._tell_abort(request_id, self._live.drop(request_id))

    def _tell_abort(self, request_id: str, group: int | None) -> None:
        if group is not None and not self._stopping:
            self._send(group, Abort(request_id))

    async def _listen(self) -> None:
        while self._socket is not None:
            sender, message = await self._socket.receive()
            try:
                self._hear(sender, message)
            except Exception:  # a listener's bug must not make the engine deaf
                log.exception("handling a message of %s failed", sender)

    async def _keep_watch(self) -> None:
        while self.dead is None:
            if self._ranks is not None and (end := self._ranks.ended()) is not None:
                self._health.suspect(Cause.LAUNCHER_ENDED, end)
            if (verdict := self._health.verdict()) is not None:
                self._die(verdict)
            await asyncio.sleep(_TICK)

    def _hear(self, sender: str, message: FromEngine) -> None:
        if sender == AGENT:
            if isinstance(message, Failure):
                self._health.suspect(Cause.EXIT_CODE if message.symptom else Cause.KILLED, message.message)
            return
        rank = _number(sender)
        if not 0 <= rank < self._layout.world_size or not self._may_send(rank, message):
            log.warning("dropped a message that %s may not send", sender)
            return
        self._health.heard(rank)
        match message:
            case Outputs():
                self._live.deliver(message)
            case RankReport():
                for listener in self._report_listeners:
                    listener(message)
            case Failure():
                self._health.failed(rank, message.message, message.symptom)
            case Hello():
                self._greet(message)
            case Ready():
                self._take_ready(message)

    def _may_send(self, rank: int, message: FromEngine) -> bool:
        if isinstance(message, Outputs):
            return 0 <= message.group < self._layout.dp and self._layout.leaders()[message.group] == rank
        return message.rank == rank

    def _greet(self, hello: Hello) -> None:
        world_size = self._layout.world_size
        if hello.protocol_version != PROTOCOL_VERSION:
            reason = (
                f"speaks protocol {hello.protocol_version}, this front end {PROTOCOL_VERSION}: "
                "install the same version of yardmaster on every node"
            )
        elif (hello.world_size, hello.group) != (world_size, self._layout.group_of(hello.rank)):
            reason = (
                f"belongs to group {hello.group} of a world of {hello.world_size}, this front end serves {world_size}: "
                "give every node the same --tp and --dp"
            )
        else:
            return
        self._health.suspect(Cause.SAID, f"rank {hello.rank} {reason}")

    def _take_ready(self, ready: Ready) -> None:
        self._ready[ready.rank] = ready
        if self._layout.world_size > 1:
            self._progress(f"rank {ready.rank} is ready ({len(self._ready)} of {self._layout.world_size})")
        if self.ready:
            self._started.set()

    def _die(self, reason: str) -> None:
        if self.dead is None and not self._stopping:
            self._died = reason
            self._live.fail_all(reason)
            self._started.set()
            self._ended.set()


def _number(sender: str) -> int:
    """The rank in "rank-3" or "beat-3"; -1 where there is none."""
    digits = sender.partition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 6 else -1
