"""An engine's door with a queue in front: the engine is given as much as it can run, the rest waits here, by key.

Whose request a sequence belongs to is told by `CALLER`, which the HTTP side sets; sequences of no caller are the
server's own work. One event loop's thread alone touches it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from itertools import count

import msgspec

from ...engine.client import EngineClient, EngineDead, EngineOverloaded
from ...engine.client_around import ClientAround
from ...engine.config import EngineConfig
from ...engine.messages import RequestOutput, Submit
from .fair_queue import FairQueue, Flow
from .keyring import Keyring
from .refusals import DRAIN_RETRY, too_good_a_priority, too_late
from .stream import FairStream, State
from .tenant import CALLER, Caller

OPEN_END = 1024  # tokens charged at first for an answer that may take all of the context


class FairClient(ClientAround):
    """See `EngineClient`; `inner` is the engine. Bounds are of the whole engine, all its groups together.

    `max_running` sequences may be in the engine, which should be a few more than run at once, so that a place that
    gets free is taken in the next step. `max_starting` bounds the prompt tokens of those that have not yet given
    their first token: about two steps' worth keep the engine busy, and where its cache is full, what it cannot start
    waits here rather than there. `step_tokens` is the most that one prompt counts for.
    """

    def __init__(
        self,
        inner: EngineClient,
        keys: Keyring,
        *,
        max_running: int,
        max_waiting: int,
        max_starting: int,
        step_tokens: int,
    ) -> None:
        super().__init__(inner)
        self._keys = keys
        self._queue: FairQueue[FairStream] = FairQueue(max_waiting)
        self._live: dict[str, FairStream] = {}
        self._max_running = max_running
        self._max_starting = max_starting
        self._step_tokens = step_tokens
        self._running = 0
        self._starting = 0
        self._pause: asyncio.TimerHandle | None = None  # the engine had no place: nobody is let in meanwhile
        self._pumping = False
        self._ends: deque[float] = deque(maxlen=32)
        self._arrivals = count()

    @classmethod
    def of(cls, config: EngineConfig, inner: EngineClient, keys: Keyring) -> FairClient:
        """With the bounds that suit an engine of `config`."""
        limits, groups = config.scheduler, config.parallel.dp
        ahead = min(max(1, limits.max_num_seqs // 16), limits.max_waiting)
        return cls(
            inner,
            keys,
            max_running=groups * (limits.max_num_seqs + ahead),
            max_waiting=groups * limits.max_waiting,
            max_starting=2 * groups * limits.max_num_batched_tokens,
            step_tokens=limits.max_num_batched_tokens,
        )

    async def submit(self, request: Submit) -> FairStream:
        """Raises ApiError where a limit of the caller's key binds; else as `EngineClient` says."""
        if self._inner.dead is not None:
            raise EngineDead(self._inner.dead)
        if request.request_id in self._live:
            raise ValueError(f"a request with the id {request.request_id!r} is already running")
        caller = CALLER.get()
        if caller is None:
            if self._keys.draining:
                raise EngineOverloaded("the server takes no new work", DRAIN_RETRY)
            caller = Caller(self._keys.internal, background=True)
        tenant, flow = caller.tenant, self._flow(caller)
        best = tenant.spec.priority
        if request.priority and request.priority < best:  # 0 is also what a request has that says nothing
            raise too_good_a_priority(tenant.spec.name, best, request.priority)
        if caller.deadline is not None and caller.deadline <= self._keys.clock():
            tenant.rejected["deadline"] += 1
            raise too_late()
        if not self._has_room() and not self._queue.may_wait(flow, self._keys.total_weight):
            tenant.rejected["queue"] += 1
            raise EngineOverloaded(f"the queue is full: {len(self._queue)} requests wait", self._retry_after())
        cost = self._cost(request)
        tenant.charge(cost, caller.outstanding, caller.background)
        stream = FairStream(self, request, caller, cost, max(best, request.priority), next(self._arrivals))
        caller.outstanding += cost
        caller.hold()
        self._live[request.request_id] = stream
        self._queue.push(flow, stream)
        self._pump()
        if stream.state is State.WAITING and caller.deadline is not None:
            seconds = caller.deadline - self._keys.clock()
            stream.timer = asyncio.get_running_loop().call_later(seconds, self._expire, stream)
        return stream

    async def abort(self, request_id: str) -> None:
        stream = self._live.get(request_id)
        if stream is None or stream.state is not State.WAITING:
            await self._inner.abort(request_id)
        if stream is not None:
            stream.end(RequestOutput(request_id=request_id, finish_reason="abort"))

    async def stop(self) -> None:
        await super().stop()
        self._pump()

    def _cost(self, request: Submit) -> int:
        """Tokens that a sequence may take, as far as its request says."""
        prompt, answer = len(request.prompt_token_ids), request.params.max_tokens
        open_ended = prompt + answer >= self._inner.max_model_len
        return prompt + (min(answer, OPEN_END) if open_ended else answer)

    def _has_room(self) -> bool:
        return self._pause is None and self._running < self._max_running and self._starting < self._max_starting

    def _pump(self) -> None:
        """Let in whose turn it is. While anything waits, something runs or a pause is on, whose end calls this."""
        if self._pumping:  # by way of `leave`
            return
        self._pumping = True
        try:
            if self._inner.dead is not None:
                for stream in [each for each in self._live.values() if each.state is State.WAITING]:
                    stream.end(EngineDead(self._inner.dead))
            while self._queue and self._has_room():
                stream = self._queue.pop()
                self._seat(stream)
                deadline = stream.caller.deadline
                if deadline is None or deadline > self._keys.clock():
                    stream.let_in()
                else:
                    self._expire(stream)
        finally:
            self._pumping = False

    def _flow(self, caller: Caller) -> Flow[FairStream]:
        """Where the caller's sequences wait."""
        return self._keys.internal.flow if caller.background else caller.tenant.flow

    def _seat(self, stream: FairStream) -> None:
        stream.state = State.LET_IN
        stream.caller.tenant.running += 1
        self._running += 1
        self._starting += self._share(stream)

    def _unseat(self, stream: FairStream) -> None:
        stream.caller.tenant.running -= 1
        self._running -= 1
        if not stream.begun:
            self._starting -= self._share(stream)

    def _share(self, stream: FairStream) -> int:
        return min(stream.prompt_tokens, self._step_tokens)

    def _expire(self, stream: FairStream) -> None:
        if stream.state in (State.WAITING, State.LET_IN):
            stream.caller.tenant.rejected["deadline"] += 1
            stream.end(too_late())

    async def enter(self, stream: FairStream) -> AsyncIterator[RequestOutput] | None:
        """See `Door`. All keys are equal before the engine: there a priority counts for the server's own work alone."""
        request = stream.request
        if request.priority and not stream.caller.background:
            request = msgspec.structs.replace(request, priority=0)
        try:
            outputs = await self._inner.submit(request)
        except EngineOverloaded as error:
            if stream.state is State.LET_IN:
                self._put_back(stream, error.retry_after)
            return None
        except Exception:
            self.leave(stream)
            raise
        if stream.state is State.OVER:  # aborted meanwhile
            await self._inner.abort(request.request_id)
            return None
        stream.state = State.RUNNING
        stream.caller.tenant.prompt_tokens += stream.prompt_tokens
        return outputs

    def begin(self, stream: FairStream) -> None:
        self._starting -= self._share(stream)
        stream.begun = True
        self._pump()

    def leave(self, stream: FairStream) -> None:
        state, stream.state = stream.state, State.OVER
        if state is State.OVER:
            return
        if stream.timer is not None:
            stream.timer.cancel()
        del self._live[stream.request.request_id]
        tenant, used = stream.caller.tenant, stream.used if state is State.RUNNING else 0
        if state is State.WAITING:
            self._queue.remove(self._flow(stream.caller), stream)
        else:
            self._unseat(stream)
            self._queue.settle(self._flow(stream.caller), used - stream.cost)
            if state is State.RUNNING:
                self._ends.append(self._keys.clock())
            self._resume()
        tenant.settle(used - stream.charged)
        stream.caller.outstanding -= stream.cost
        stream.caller.drop()
        self._pump()

    def _put_back(self, stream: FairStream, seconds: float) -> None:
        """The engine had no place after all: back to where it waited, until something ends or time has passed."""
        self._unseat(stream)
        stream.state = State.WAITING
        flow = self._flow(stream.caller)
        self._queue.settle(flow, -stream.cost)
        self._queue.push(flow, stream)
        if self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
            self._pump()

    def _retry_after(self) -> int:
        """Seconds until a place should be free, at the rate at which sequences lately ended."""
        if len(self._ends) < 2:
            return 1
        rate = len(self._ends) / max(self._keys.clock() - self._ends[0], 1e-3)
        return min(60, max(1, math.ceil(1 / rate)))
