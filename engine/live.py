"""The requests that are in an engine now, as the front end knows them: who may enter, which group serves whom, and

each one's stream of outputs. No sockets and no tensors; one event loop's thread alone touches it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from .client import EngineDead, EngineOverloaded
from .messages import EngineStats, Outputs, RequestOutput, Submit, TokenLogprob


class Stream:
    """One request's outputs, an async iterator with `aclose`. What a slow reader leaves lying comes as one output."""

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close
        self._pending: list[RequestOutput] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._over = False
        self._sink: Callable[[RequestOutput | Exception], None] | None = None

    def push(self, output: RequestOutput) -> None:
        if self._sink is not None:
            self._sink(output)
        else:
            self._pending.append(output)
            self._wake()

    def fail(self, error: str | Exception) -> None:
        """Nothing more will come: a text is why the engine is dead."""
        self._error = EngineDead(error) if isinstance(error, str) else error
        if self._sink is not None:
            self._sink(self._error)
        else:
            self._wake()

    def pour(self, sink: Callable[[RequestOutput | Exception], None]) -> None:
        """For one who only passes outputs on, instead of iterating: each goes to `sink` when it comes, and no task has

        to wake for it. The last is the one with a finish reason, or what the stream failed with.
        """
        self._sink = sink
        for output in self._pending:
            sink(output)
        self._pending = []
        if self._error is not None:
            sink(self._error)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> RequestOutput:
        """Raises EngineDead, or what else it failed with, once what had come before that is read."""
        while not self._pending:
            if self._over:
                raise StopAsyncIteration
            if self._error is not None:
                self._over = True
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        output = merged(self._pending)
        self._pending = []
        self._over = output.finish_reason is not None
        return output

    async def aclose(self) -> None:
        """Read no further; aborts the request when it is still running."""
        if not self._over:
            self._over = True
            self._on_close()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(slots=True)
class _Request:
    group: int
    tokens: int
    stream: Stream


@dataclass(slots=True)
class _Group:
    requests: int = 0
    tokens: int = 0  # prompts and what was generated, of live requests
    waiting: int = 0  # as the engine last said
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=32))


class LiveRequests:
    """All live requests of an engine of `groups` groups, each running `max_running` and queueing `max_waiting`.

    `dead` says why nothing lives here any more. `seed` starts the seeds of requests that bring none.
    """

    def __init__(
        self,
        groups: int,
        max_running: int,
        max_waiting: int,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dead: str | None = None
        self.stats_listeners: list[Callable[[int, EngineStats], None]] = []
        self._groups = [_Group() for _ in range(groups)]
        self._requests: dict[str, _Request] = {}
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._seeds = random.Random(seed)
        self._clock = clock

    def __len__(self) -> int:
        return len(self._requests)

    def idle_groups(self) -> list[int]:
        return [index for index, group in enumerate(self._groups) if not group.requests]

    def admit(self, request: Submit, on_close: Callable[[], None]) -> tuple[int, Submit, Stream]:
        """The least loaded group, what to send there, and the stream to read.

        `on_close` is called when the reader leaves early. Raises EngineOverloaded when every group's queue is full,
        EngineDead, and ValueError when the id is live already.
        """
        if self.dead is not None:
            raise EngineDead(self.dead)
        if request.request_id in self._requests:
            raise ValueError(f"a request with the id {request.request_id!r} is already running")
        open_groups = [index for index, group in enumerate(self._groups) if self._queued(group) < self._max_waiting]
        free = [index for index, group in enumerate(self._groups) if group.requests < self._max_running]
        candidates = [index for index in free if not self._groups[index].waiting] or open_groups
        if not candidates:
            raise EngineOverloaded(
                f"the queue is full: {sum(map(self._queued, self._groups))} requests wait (--max-waiting "
                f"{self._max_waiting} a group)",
                self._retry_after(),
            )
        index = min(candidates, key=lambda index: (self._groups[index].tokens, self._groups[index].requests, index))
        size = len(request.prompt_token_ids) + 1
        stream = Stream(on_close)
        self._requests[request.request_id] = _Request(index, size, stream)
        group = self._groups[index]
        group.requests += 1
        group.tokens += size
        if request.params.seed is None:
            params = msgspec.structs.replace(request.params, seed=self._seeds.getrandbits(62))
            request = msgspec.structs.replace(request, params=params)
        return index, request, stream

    def deliver(self, message: Outputs) -> None:
        """Hand a step's outputs to their readers; those of requests that have gone are dropped."""
        self._groups[message.group].waiting = message.stats.waiting
        for output in message.outputs:
            request = self._requests.get(output.request_id)
            if request is None or request.group != message.group:
                continue
            request.stream.push(output)
            request.tokens += len(output.token_ids)
            self._groups[request.group].tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self.drop(output.request_id)
        for listener in self.stats_listeners:
            listener(message.group, message.stats)

    def drop(self, request_id: str) -> int | None:
        """Forget a request; the group that had it, or None when it is not live."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return None
        group = self._groups[request.group]
        group.requests -= 1
        group.tokens -= request.tokens
        group.ends.append(self._clock())
        return request.group

    def abort(self, request_id: str) -> int | None:
        """End a request's stream with finish reason "abort"; the group that had it, or None when it is not live."""
        request = self._requests.get(request_id)
        if request is not None:
            request.stream.push(RequestOutput(request_id=request_id, finish_reason="abort"))
        return self.drop(request_id)

    def fail_all(self, reason: str) -> None:
        """The engine is dead: every reader learns why, and nobody enters any more."""
        self.dead = self.dead or reason
        for request_id, request in list(self._requests.items()):
            request.stream.fail(reason)
            self.drop(request_id)

    def _queued(self, group: _Group) -> int:
        # The engine's own count is as old as the last step; what is above the batch surely queues.
        return max(group.waiting, group.requests - self._max_running)

    def _retry_after(self) -> int:
        """Seconds until a place in a queue should be free, at the rate at which requests lately ended."""
        now = self._clock()
        rates = [len(group.ends) / max(now - group.ends[0], 1e-3) for group in self._groups if len(group.ends) > 1]
        return min(60, max(1, math.ceil(1 / sum(rates)))) if rates else 1


def merged(outputs: list[RequestOutput]) -> RequestOutput:
    """Outputs of one request, in order, as one."""
    if len(outputs) == 1:
        return outputs[0]
    last = outputs[-1]
    logprobs: list[TokenLogprob] = [entry for output in outputs for entry in output.logprobs or ()]
    return msgspec.structs.replace(
        last,
        token_ids=[token for output in outputs for token in output.token_ids],
        logprobs=logprobs if any(output.logprobs is not None for output in outputs) else None,
        prompt_logprobs=next((o.prompt_logprobs for o in outputs if o.prompt_logprobs is not None), None),
        queue_seconds=next((o.queue_seconds for o in outputs if o.queue_seconds is not None), None),
    )
