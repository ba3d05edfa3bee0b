"""The same engine in a thread of this process, for one rank: `LLM()` and tests. Queues stand for the sockets."""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .client import EngineDead, EngineOverloaded
from .config import EngineConfig
from .leader import Leader
from .live import LiveRequests, Stream
from .messages import Abort, EngineStats, FromEngine, Outputs, RankReport, Shutdown, Submit, ToEngine
from .reporter import BEAT_SECONDS

if TYPE_CHECKING:
    from .worker import Build

log = logging.getLogger(__name__)


class LocalEngineClient:
    """See `EngineClient`. `build` makes the executor, in the engine's thread. Used from one event loop."""

    def __init__(self, config: EngineConfig, build: Build, progress: Callable[[str], None] = lambda line: None) -> None:
        if config.parallel.world_size != 1:
            raise ValueError("an engine inside this process has one rank: serve with --tp or --dp for more")
        limits = config.scheduler
        self._config = config
        self._build = build
        self._progress = progress
        self._live = LiveRequests(1, limits.max_num_seqs, limits.max_waiting, config.seed)
        self._report_listeners: list[Callable[[RankReport], None]] = []
        self._wire: _QueueWire | None = None
        self._thread: threading.Thread | None = None
        self._reports: asyncio.Task[None] | None = None
        self._counters: Callable[[], RankReport] | None = None
        self._max_model_len = 0

    async def start(self) -> None:
        """Build in the thread. Raises EngineDead, from the error that ended it."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._wire = _QueueWire(lambda message: loop.call_soon_threadsafe(self._hear, message))
        self._thread = threading.Thread(target=self._run, args=(loop, ready, self._wire), name="engine", daemon=True)
        self._thread.start()
        try:
            await ready
        except Exception as error:
            self._live.fail_all(str(error))
            raise EngineDead(str(error) or type(error).__name__) from error
        self._reports = asyncio.create_task(self._beat())

    async def submit(self, request: Submit) -> Stream:
        if not self.ready and self.dead is None:
            raise EngineOverloaded("the engine is still starting", retry_after=5)
        _, request, stream = self._live.admit(request, lambda: self._forget(request.request_id))
        self._send(request)
        return stream

    async def abort(self, request_id: str) -> None:
        if self._live.abort(request_id) is not None:
            self._send(Abort(request_id))

    async def stop(self) -> None:
        self._live.fail_all("the engine was stopped")
        self._send(Shutdown())
        if self._reports is not None:
            self._reports.cancel()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._counters = self._wire = None  # they hold the model
        await asyncio.to_thread(_free)

    @property
    def dead(self) -> str | None:
        return self._live.dead

    @property
    def ready(self) -> bool:
        return self._max_model_len > 0

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    def on_stats(self, listener: Callable[[int, EngineStats], None]) -> None:
        self._live.stats_listeners.append(listener)

    def on_report(self, listener: Callable[[RankReport], None]) -> None:
        self._report_listeners.append(listener)

    def _forget(self, request_id: str) -> None:
        if self._live.drop(request_id) is not None:
            self._send(Abort(request_id))

    def _send(self, message: ToEngine) -> None:
        if self._wire is not None:
            self._wire.inbox.put(message)

    def _hear(self, message: FromEngine) -> None:
        if isinstance(message, Outputs):
            self._live.deliver(message)

    async def _beat(self) -> None:
        while self._counters is not None:
            report = self._counters()
            for listener in self._report_listeners:
                listener(report)
            await asyncio.sleep(BEAT_SECONDS)

    def _run(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], wire: _QueueWire) -> None:
        """The engine's thread."""
        try:
            leader = self._make(wire)
            loop.call_soon_threadsafe(ready.set_result, None)
        except Exception as error:
            loop.call_soon_threadsafe(ready.set_exception, error)
            return
        try:
            leader.run()
        except Exception as error:
            log.exception("the engine failed")
            loop.call_soon_threadsafe(self._live.fail_all, f"{type(error).__name__}: {error}")

    def _make(self, wire: _QueueWire) -> Leader:
        import torch

        from ..parallel.control import Control
        from ..parallel.mesh import Mesh
        from .worker import pick_device, report_of

        torch.set_num_threads(self._config.threads(ranks_here=1))  # OpenMP keeps this per thread: set it in this one
        mesh = Mesh.single(pick_device(self._config))
        built = self._build(self._config, mesh, self._progress)
        self._counters = lambda: report_of(0, built)
        self._max_model_len = built.max_model_len
        return Leader.of(self._config, 0, built, Control(mesh), wire)


def _free() -> None:
    """Give back what nobody holds any more, on a GPU to its driver: the next engine asks that what is free."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class _QueueWire:
    """A `Wire` whose other end is in this process."""

    def __init__(self, send: Callable[[FromEngine], object]) -> None:
        self.inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
        self._deliver = send

    def receive(self, timeout_seconds: float) -> list[ToEngine]:
        messages: list[ToEngine] = []
        try:
            messages.append(self.inbox.get(timeout=timeout_seconds) if timeout_seconds else self.inbox.get_nowait())
            while True:
                messages.append(self.inbox.get_nowait())
        except queue.Empty:
            return messages

    def send(self, message: FromEngine) -> None:
        self._deliver(message)
