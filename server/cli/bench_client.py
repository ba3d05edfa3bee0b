"""A load generator for any OpenAI-compatible server: timed requests in, latencies and throughput out. No command line.

Requests leave at Poisson times (or all at once) and at most so many run at a time. Times are the client's: time to
first token (TTFT) from sending the request to the first chunk that carries text; inter-token latency (ITL) between
such chunks; time per output token (TPOT) from the first to the last, over the tokens in between; E2E to the end.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import httpx

from .address import base_url, key_headers
from .refusal import error_text, refusal

Endpoint = Literal["chat", "completions"]
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
# Common words, so that a tokenizer makes about one token of each.
TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send where. Raises ValueError, naming the flag, for a value that cannot be meant."""

    base_url: str
    model: str | None = None  # None: the server's first
    endpoint: Endpoint = "completions"
    num_prompts: int = 100
    request_rate: float = float("inf")  # requests a second, Poisson; inf sends all at once
    max_concurrency: int | None = None
    input_len: int = 256
    output_len: int = 64
    seed: int = 0
    temperature: float = 0.0
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.endpoint not in PATHS:
            raise ValueError(f"--endpoint must be chat or completions, got {self.endpoint!r}")
        base_url(self.base_url, "--base-url")
        key_headers(self.api_key)
        if not 0 <= self.temperature <= 100:
            raise ValueError(f"--temperature must be between 0 and 100, got {self.temperature}")
        if not self.request_rate > 0:
            raise ValueError(f"--request-rate must be above 0 (inf: all at once), got {self.request_rate}")
        for flag, value in (
            ("--num-prompts", self.num_prompts),
            ("--max-concurrency", self.max_concurrency),
            ("--random-input-len", self.input_len),
            ("--random-output-len", self.output_len),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{flag} must be at least 1, got {value}")


@dataclass(slots=True)
class Timing:
    """One request. `error` None means that it was answered whole; `detail` is what the server said of it."""

    start: float = 0.0
    ttft: float = 0.0
    e2e: float = 0.0
    itl: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None
    detail: str = ""

    @property
    def tpot(self) -> float | None:
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Report:
    """`spreads` by ttft, tpot, itl and e2e; one is missing when nothing was measured for it."""

    model: str
    completed: int
    failed: int
    errors: dict[str, int]
    duration: float  # seconds, from the first request to the last answer
    prompt_tokens: int
    output_tokens: int
    request_throughput: float  # a second
    output_throughput: float
    total_throughput: float
    max_concurrent: int
    spreads: dict[str, Spread]

    def to_json(self, load: Load) -> str:
        settings = {name: value for name, value in asdict(load).items() if name != "api_key"}
        if load.request_rate == float("inf"):
            settings["request_rate"] = "inf"  # JSON has no infinity
        return json.dumps({"load": settings, **asdict(self)}, indent=2)


async def run(
    load: Load,
    progress: Callable[[Timing], None] = lambda timing: None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Report:
    """Send a first request by itself, then the load; `progress` hears of each answer.

    Raises ConnectionError when the first request fails: then the rest would too.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(load.timeout, connect=min(load.timeout, 30.0), pool=None)
    async with httpx.AsyncClient(
        base_url=base_url(load.base_url, "--base-url"),
        headers=key_headers(load.api_key),
        limits=limits,
        timeout=timeout,
        transport=transport,
        trust_env=False,
    ) as http:
        model = load.model or await _first_model(http)
        bodies = await _bodies(http, load, model)
        first = await _send(http, load.endpoint, bodies[0])
        if first.error is not None:
            reason = f"{first.error}: {first.detail}" if first.detail else first.error
            raise ConnectionError(f"{load.base_url}: the first request failed: {reason}")
        timings, most, duration = await _drive(http, load, bodies[1:], progress)
    return summarize(model, timings, most, duration)


def summarize(model: str, timings: Sequence[Timing], max_concurrent: int, duration: float) -> Report:
    """What `timings` come to. Failed requests count as such and in nothing else."""
    good = [timing for timing in timings if timing.error is None]
    prompt, output = (sum(getattr(timing, name) for timing in good) for name in ("prompt_tokens", "output_tokens"))
    per = 1.0 / duration if duration > 0 else 0.0
    values = {
        "ttft": [timing.ttft for timing in good],
        "tpot": [timing.tpot for timing in good if timing.tpot is not None],
        "itl": [gap for timing in good for gap in timing.itl],
        "e2e": [timing.e2e for timing in good],
    }
    return Report(
        model=model,
        completed=len(good),
        failed=len(timings) - len(good),
        errors=dict(Counter(timing.error for timing in timings if timing.error is not None).most_common(20)),
        duration=duration,
        prompt_tokens=prompt,
        output_tokens=output,
        request_throughput=len(good) * per,
        output_throughput=output * per,
        total_throughput=(prompt + output) * per,
        max_concurrent=max_concurrent,
        spreads={name: spread(each) for name, each in values.items() if each},
    )


def spread(seconds: Sequence[float]) -> Spread:
    """Mean, percentiles (linear between neighbours) and maximum, in milliseconds."""
    ordered = sorted(seconds)

    def percentile(p: int) -> float:
        place = (len(ordered) - 1) * p / 100
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return 1000 * (ordered[below] + (ordered[above] - ordered[below]) * (place - below))

    mean = 1000 * sum(ordered) / len(ordered)
    return Spread(mean, percentile(50), percentile(90), percentile(99), 1000 * ordered[-1])


def departures(count: int, rate: float, seed: int) -> list[float]:
    """Seconds from the start at which requests leave: a Poisson process of `rate` a second, or all at once."""
    if rate == float("inf"):
        return [0.0] * count
    generator, now, times = random.Random(seed), 0.0, []
    for _ in range(count):
        times.append(now)
        now += generator.expovariate(rate)
    return times


async def _drive(
    http: httpx.AsyncClient, load: Load, bodies: Sequence[dict[str, Any]], progress: Callable[[Timing], None]
) -> tuple[list[Timing], int, float]:
    places = asyncio.Semaphore(load.max_concurrency or len(bodies))
    running = most = 0
    begin = time.perf_counter()

    async def one(body: dict[str, Any], departure: float) -> Timing:
        nonlocal running, most
        await asyncio.sleep(begin + departure - time.perf_counter())
        async with places:
            running += 1
            most = max(most, running)
            timing = await _send(http, load.endpoint, body)
            running -= 1
        progress(timing)
        return timing

    times = departures(len(bodies), load.request_rate, load.seed)
    timings = await asyncio.gather(*(one(body, at) for body, at in zip(bodies, times, strict=True)))
    end = max((timing.start + timing.e2e for timing in timings if timing.error is None), default=time.perf_counter())
    start = min((timing.start for timing in timings), default=begin)
    return timings, most, end - start


async def _send(http: httpx.AsyncClient, endpoint: Endpoint, body: dict[str, Any]) -> Timing:
    timing = Timing(start=time.perf_counter())
    last, chunks, finished = timing.start, 0, False
    try:
        async with http.stream("POST", PATHS[endpoint], json=body) as response:
            if response.status_code != 200:
                timing.error, timing.detail = f"HTTP {response.status_code}", refusal(await response.aread())
                return timing
            async for event in _events(response):
                now = time.perf_counter()
                if "error" in event:
                    timing.error, timing.detail = "error in the stream", error_text(event["error"])
                    return timing
                usage = event.get("usage")
                if usage:
                    timing.prompt_tokens = usage.get("prompt_tokens") or 0
                    timing.output_tokens = usage.get("completion_tokens") or 0
                for choice in event.get("choices") or ():
                    finished = finished or choice.get("finish_reason") is not None
                    if not _has_text(choice):
                        continue
                    chunks += 1
                    if chunks == 1:
                        timing.ttft = now - timing.start
                    else:
                        timing.itl.append(now - last)
                    last = now
    except (httpx.HTTPError, json.JSONDecodeError, AttributeError, TypeError) as error:
        timing.error = type(error).__name__
        return timing
    if not finished or not chunks:
        timing.error = "ended early" if chunks else "no text"
    timing.e2e = last - timing.start
    timing.output_tokens = timing.output_tokens or chunks
    return timing


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            yield json.loads(line[5:])


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return bool(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"))


async def _first_model(http: httpx.AsyncClient) -> str:
    try:
        response = await http.get("/v1/models")
        return str(response.json()["data"][0]["id"])
    except httpx.HTTPError as error:
        raise ConnectionError(f"{http.base_url} cannot be reached: {error or type(error).__name__}") from None
    except (ValueError, LookupError, TypeError):
        raise ConnectionError(f"{http.base_url} names no model (HTTP {response.status_code}): give --model") from None


async def _bodies(http: httpx.AsyncClient, load: Load, model: str) -> list[dict[str, Any]]:
    """One more than asked for: the first request is for warming up."""
    generator = random.Random(load.seed)
    ids = await _token_ids(http, model) if load.endpoint == "completions" else []
    words = TEXT.split()
    common = {
        "model": model,
        "max_tokens": load.output_len,
        "temperature": load.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,  # vLLM's; OpenAI's own servers stop where they like
    }
    bodies = []
    for _ in range(load.num_prompts + 1):
        if ids:
            body: dict[str, Any] = {"prompt": generator.choices(ids, k=load.input_len)}
        else:
            text = " ".join(generator.choices(words, k=load.input_len))
            body = {"messages": [{"role": "user", "content": text}]} if load.endpoint == "chat" else {"prompt": text}
        bodies.append(common | body)
    return bodies


async def _token_ids(http: httpx.AsyncClient, model: str) -> list[int]:
    """Ids of common words, from /tokenize where a server has it (vLLM's, and ours): prompts of exact length."""
    try:
        response = await http.post("/tokenize", json={"model": model, "prompt": f" {TEXT}"})
        ids = response.json()["tokens"] if response.status_code == 200 else []
        return sorted({token for token in ids if type(token) is int})
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return []
