"""One key at work: its limits, what is left of them, and what it has used. And one HTTP request of it: the caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal

from .bucket import Bucket
from .fair_queue import Flow
from .key_file import KeySpec
from .refusals import duration, request_too_large, too_many_at_once, too_many_requests, too_many_tokens

Reason = Literal["requests", "tokens", "concurrency", "queue", "deadline"]
REASONS: tuple[Reason, ...] = ("requests", "tokens", "concurrency", "queue", "deadline")


class Tenant:
    """`number` tells tenants apart for good, whatever their names. `clock` gives monotonic seconds."""

    def __init__(self, spec: KeySpec, number: int, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.flow: Flow[Any] = Flow(number, spec.weight)
        self.concurrent = 0  # HTTP requests, or what they have left running
        self.requests = self.prompt_tokens = self.generation_tokens = 0  # totals
        self.running = 0  # sequences that the engine has
        self.rejected: Counter[Reason] = Counter()
        self._clock = clock
        self._requests = self._bucket(spec.requests_per_minute, None)
        self._tokens = self._bucket(spec.tokens_per_minute, None)

    def change(self, spec: KeySpec) -> None:
        """New limits for the same name; what was used stays used."""
        self.spec = spec
        self.flow.weight = spec.weight
        self._requests = self._bucket(spec.requests_per_minute, self._requests)
        self._tokens = self._bucket(spec.tokens_per_minute, self._tokens)

    def enter(self, deadline: float | None) -> Caller:
        """Count one more HTTP request, which ends with `Caller.drop`. Raises LimitReached."""
        limit = self.spec.max_concurrent
        if limit is not None and self.concurrent >= limit:
            self.rejected["concurrency"] += 1
            raise too_many_at_once(self.spec.name, limit)
        if self._requests is not None and not self._requests.take(1):
            self.rejected["requests"] += 1
            raise too_many_requests(self.spec.name, self._requests.capacity, self._requests.wait(1))
        self.requests += 1
        caller = Caller(self, deadline)
        caller.hold()
        return caller

    def enter_behind(self) -> Caller:
        """The same for work that nobody waits for: half of each limit stays for the others. Raises LimitReached."""
        limit = self.spec.max_concurrent
        if limit is not None and self.concurrent >= max(1, limit // 2):
            raise too_many_at_once(self.spec.name, limit)
        bucket = self._requests
        if bucket is not None and not (bucket.spares(1) and bucket.take(1)):
            raise too_many_requests(self.spec.name, bucket.capacity, bucket.wait(1))
        self.requests += 1
        caller = Caller(self, background=True)
        caller.hold()
        return caller

    def charge(self, tokens: int, outstanding: int, background: bool = False) -> None:
        """Take `tokens` for a sequence whose request has `outstanding` charged already. Raises LimitReached."""
        bucket = self._tokens
        spared = bucket is None or not background or bucket.spares(tokens, outstanding)
        if bucket is None or (spared and bucket.take(tokens)):
            return
        if not background:
            self.rejected["tokens"] += 1
        if tokens + outstanding > bucket.capacity:
            raise request_too_large(self.spec.name, bucket.capacity, tokens + outstanding)
        raise too_many_tokens(self.spec.name, bucket.capacity, bucket.remaining, tokens, bucket.wait(tokens))

    def settle(self, tokens: int) -> None:
        """A sequence has used so many more than was charged, or less if below zero."""
        if self._tokens is not None and tokens:
            self._tokens.spend(tokens)

    @property
    def waiting(self) -> int:
        return len(self.flow.waiting)

    @property
    def remaining_requests(self) -> int | None:
        return None if self._requests is None else self._requests.remaining

    @property
    def remaining_tokens(self) -> int | None:
        return None if self._tokens is None else self._tokens.remaining

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What is left of each limit there is, as OpenAI's headers."""
        found = []
        for kind, bucket in ((b"requests", self._requests), (b"tokens", self._tokens)):
            if bucket is not None:
                found += [
                    (b"x-ratelimit-limit-" + kind, b"%d" % bucket.capacity),
                    (b"x-ratelimit-remaining-" + kind, b"%d" % bucket.remaining),
                    (b"x-ratelimit-reset-" + kind, duration(bucket.reset).encode()),
                ]
        return found

    def _bucket(self, per_minute: int | None, before: Bucket | None) -> Bucket | None:
        if per_minute is None:
            return None
        if before is None:
            return Bucket(per_minute, self._clock)
        before.resize(per_minute)
        return before


class Caller:
    """One HTTP request, until it is answered and all that it has started has ended.

    `deadline`: by when its turn must have come, on the tenant's clock. `background`: nobody waits for it; it counts for
    its tenant, and waits among the server's own work.
    """

    __slots__ = ("_holds", "background", "deadline", "outstanding", "tenant")

    def __init__(self, tenant: Tenant, deadline: float | None = None, background: bool = False) -> None:
        self.tenant = tenant
        self.deadline = deadline
        self.background = background
        self.outstanding = 0  # tokens charged for sequences that have not ended
        self._holds = 0

    def hold(self) -> None:
        if not self._holds:
            self.tenant.concurrent += 1
        self._holds += 1

    def drop(self) -> None:
        self._holds -= 1
        if not self._holds:
            self.tenant.concurrent -= 1


CALLER: ContextVar[Caller | None] = ContextVar("yardmaster_caller", default=None)
