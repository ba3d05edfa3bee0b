"""What /metrics shows: vLLM's meanings and units under the prefix `yardmaster_`, in one registry of our own.

The HTTP side counts requests as they happen. What the engine and the ranks report are totals already: their latest
values are kept and turned into samples at the scrape. Every label has few values: groups, ranks, layers, routes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ..engine.client import EngineClient
from ..engine.messages import EngineStats, RankReport

PREFIX = "yardmaster_"
CONTENT_TYPE = CONTENT_TYPE_LATEST
RANK_SILENCE = 5.0  # seconds without a heartbeat (one a second) after which a rank counts as down

# fmt: off
TTFT_BUCKETS = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
ITL_BUCKETS = (.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
LATENCY_BUCKETS = (.1, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
# fmt: on


class Metrics:
    """One per front end. `clock` gives monotonic seconds. `counted` holds what it counts itself, requests."""

    def __init__(self, model: str, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.counted = counted = CollectorRegistry()
        self.clock = clock
        self._engine = EngineCollector(model, version, clock)
        self.registry.register(self._engine)
        self.registry.register(counted)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=counted)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(PREFIX + name, text, buckets=buckets, registry=counted)

        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "Arrival of a request to its first token.", TTFT_BUCKETS
        )
        self.inter_token_latency = histogram(
            "inter_token_latency_seconds", "Time between neighbouring tokens of a request.", ITL_BUCKETS
        )
        self.e2e_request_latency = histogram(
            "e2e_request_latency_seconds", "Arrival of a request to its last token.", LATENCY_BUCKETS
        )
        self.request_queue_time = histogram(
            "request_queue_time_seconds", "Arrival of a request to its first step.", LATENCY_BUCKETS
        )
        self.request_prompt_tokens = histogram(
            "request_prompt_tokens", "Prompt tokens of a finished request.", TOKEN_BUCKETS
        )
        self.request_generation_tokens = histogram(
            "request_generation_tokens", "Generated tokens of a finished request.", TOKEN_BUCKETS
        )
        self.request_success = counter(
            "request_success_total", "Sequences that ended, by why they did.", "finished_reason"
        )
        self.harmony_repairs = counter(
            "harmony_repairs_total", "Malformed places in the output of a Harmony model, by what was wrong.", "kind"
        )
        self.http_requests = counter(
            "http_requests_total", "HTTP requests by route, method and status.", "handler", "method", "status"
        )
        for reason in ("stop", "length", "tool_calls", "abort", "error"):
            self.request_success.labels(reason)

    def watch(self, client: EngineClient) -> None:
        """Take what `client` hears from its groups and ranks."""
        self._engine.watch(client)

    def render(self) -> bytes:
        """Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)

    async def scrape(self) -> bytes:
        """The same of the whole server, whoever is asked."""
        return self.render()


class EngineCollector(Collector):
    """The latest totals of every group and rank."""

    def __init__(self, model: str, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client: EngineClient | None = None
        self._identity = (model, version)
        self._clock = clock
        self._began = time.time()  # one collector a server, made as it starts
        self._stats: dict[int, EngineStats] = {}
        self._reports: dict[int, tuple[float, RankReport]] = {}

    def watch(self, client: EngineClient) -> None:
        self._client = client
        client.on_stats(self.take_stats)
        client.on_report(self.take_report)

    def take_stats(self, group: int, stats: EngineStats) -> None:
        self._stats[group] = stats

    def take_report(self, report: RankReport) -> None:
        self._reports[report.rank] = (self._clock(), report)

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(PREFIX + "build_info", "Always 1; what serves.", labels=("model_name", "version"))
        info.add_metric(self._identity, 1)
        yield info
        text = "When the server was started, in Unix seconds: it changes with every restart."
        yield GaugeMetricFamily(PREFIX + "start_time_seconds", text, self._began)
        dead = self._client is not None and self._client.dead is not None
        up = self._client is not None and self._client.ready and not dead
        yield GaugeMetricFamily(
            PREFIX + "engine_up", "1 while the engine takes requests: not as it loads, nor once it has ended.", int(up)
        )
        yield from self._groups()
        yield from self._ranks(dead)

    def _groups(self) -> Iterator[Metric]:
        groups = sorted(self._stats.items())

        def gauge(name: str, text: str, read: Callable[[EngineStats], float]) -> Metric:
            return _family(GaugeMetricFamily, name, text, "engine", ((group, read(stats)) for group, stats in groups))

        def counter(name: str, text: str, read: Callable[[EngineStats], float]) -> Metric:
            return _family(CounterMetricFamily, name, text, "engine", ((group, read(stats)) for group, stats in groups))

        yield gauge("num_requests_running", "Sequences in the running batch.", lambda stats: stats.running)
        yield gauge("num_requests_waiting", "Sequences that wait for their first step.", lambda stats: stats.waiting)
        yield gauge("kv_cache_usage_perc", "Used part of the KV cache, 1 is all of it.", lambda stats: stats.kv_usage)
        yield counter("num_preemptions_total", "Sequences sent back to the queue.", lambda stats: stats.preemptions)
        yield counter("prompt_tokens_total", "Prompt tokens computed.", lambda stats: stats.prompt_tokens)
        yield counter("generation_tokens_total", "Tokens generated.", lambda stats: stats.generation_tokens)
        yield counter("engine_steps_total", "Steps of the model.", lambda stats: stats.steps)

    def _ranks(self, dead: bool) -> Iterator[Metric]:
        now = self._clock()
        ranks = sorted(self._reports.items())

        def counter(name: str, text: str, read: Callable[[RankReport], float]) -> Metric:
            values = ((rank, read(report)) for rank, (_, report) in ranks)
            return _family(CounterMetricFamily, name, text, "rank", values)

        alive = ((rank, int(not dead and now - heard <= RANK_SILENCE)) for rank, (heard, _) in ranks)
        yield _family(GaugeMetricFamily, "rank_up", "1 while the rank's heartbeat is heard.", "rank", alive)
        yield counter("expert_tokens_total", "Rows the rank's experts ran.", lambda report: report.expert_tokens)
        yield counter("dispatch_seconds_total", "Time in expert dispatch.", lambda report: report.dispatch_seconds)
        yield counter("combine_seconds_total", "Time in expert combine.", lambda report: report.combine_seconds)
        yield counter("dispatch_bytes_total", "Bytes dispatched to peers.", lambda report: report.dispatch_bytes)
        yield counter("combine_bytes_total", "Bytes sent back to peers.", lambda report: report.combine_bytes)
        yield counter("device_busy_seconds_total", "Time of the device in steps.", lambda report: report.busy_seconds)
        yield counter(
            "device_wait_seconds_total",
            "Time of the device between steps while there was work: it waited for the host.",
            lambda report: report.waited_seconds,
        )
        worst: dict[int, float] = {}
        for _, (_, report) in ranks:
            for layer, value in enumerate(report.layer_imbalance):
                worst[layer] = max(value, worst.get(layer, 0.0))
        text = "Choices of the busiest expert over the mean since the last report, on the worst rank, by MoE layer."
        yield _family(GaugeMetricFamily, "expert_imbalance", text, "layer", sorted(worst.items()))


def _family(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Iterable[tuple[int, float]],
) -> Metric:
    family = kind(PREFIX + name, text, labels=(label,))
    for key, value in values:
        family.add_metric((str(key),), value)
    return family
