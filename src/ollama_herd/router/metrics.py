"""`/metrics`: what was counted and how the herd is now, in Prometheus's formats.

Nothing is counted for a scrape: it reads the tally of ended requests and snapshots. Every label has
bounds: models and places by `core/tally.py`, nodes by the fleet.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ollama_herd.core.counts import Counts, Histogram
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.health.values import RANK, Health
from ollama_herd.core.health.words import plain
from ollama_herd.core.node import Node, NodeStatus
from ollama_herd.core.queue import QueueView
from ollama_herd.core.tally import Key
from ollama_herd.store.traces import TraceHealth

PREFIX = "herd_"

_Value = Callable[[Counts], float]


class Readings(msgspec.Struct, frozen=True):
    """All that one scrape shows; `names` of nodes are as people call them."""

    version: str
    fleet: Fleet
    queue: QueueView
    health: Health
    traces: TraceHealth | None
    refused_reports: int
    dashboards: int
    totals: Mapping[Key, Counts]
    tasks: int = 0


def exposition(readings: Readings, accept: str) -> tuple[str, bytes]:
    """Content type and body, in the format that `accept` prefers. Blocks for milliseconds."""
    registry = CollectorRegistry()
    registry.register(_Herd(readings))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    body: bytes = encode(registry)
    return content_type, body


def families(readings: Readings) -> Iterator[Metric]:
    """The herd's own metrics, each once, also where nothing was counted yet."""
    yield from _Herd(readings).collect()


class _Herd(Collector):
    """One scrape."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._names = _names(readings.fleet)
        self._by_place: dict[tuple[str, str], Counts] = {}  # all dialects together
        for key, counts in readings.totals.items():
            place = (key.model, self._name(key.node_id))
            self._by_place.setdefault(place, Counts()).merge(counts)

    def collect(self) -> Iterator[Metric]:
        yield from self._ended()
        yield from self._refused()
        yield from self._places()
        yield from self._histograms()
        yield from self._queue()
        yield from self._nodes()
        yield from self._router()

    def _ended(self) -> Iterator[Metric]:
        labels = ("model", "node", "dialect", "outcome")
        family = _counter("requests", "Requests that ended.", labels)
        ended: dict[tuple[str, str, str, str], int] = {}
        for key, counts in self._readings.totals.items():
            for outcome, count in _outcomes(counts):
                series = (key.model, self._name(key.node_id), key.dialect, outcome)
                ended[series] = ended.get(series, 0) + count
        for series, count in ended.items():
            if count:
                family.add_metric(series, count)
        yield family

    def _refused(self) -> Iterator[Metric]:
        family = _counter("refusals", "Requests that were sent to no engine.", ("reason",))
        refused: dict[str, int] = {}
        for counts in self._readings.totals.values():
            for kind, count in counts.refused.items():
                refused[kind.value] = refused.get(kind.value, 0) + count
        for reason, count in sorted(refused.items()):
            family.add_metric([reason], count)
        yield family

    def _places(self) -> Iterator[Metric]:
        tried = _counter("attempts", "Tries on an engine.", ("model", "node", "outcome"))
        tokens = _counter("tokens", "Tokens as engines count.", ("model", "node", "direction"))
        for (model, node), counts in self._by_place.items():
            for attempted, count in sorted(counts.attempts.items()):
                tried.add_metric([model, node, attempted.value], count)
            if counts.prompt_tokens or counts.output_tokens:
                tokens.add_metric([model, node, "prompt"], counts.prompt_tokens)
                tokens.add_metric([model, node, "output"], counts.output_tokens)
        yield from (tried, tokens)
        for name, text, value in _SIMPLE:
            family = _counter(name, text, ("model", "node"))
            for place, counts in self._by_place.items():
                if value(counts):
                    family.add_metric(place, value(counts))
            yield family

    def _histograms(self) -> Iterator[Metric]:
        for name, text, of in _HISTOGRAMS:
            family = HistogramMetricFamily(PREFIX + name, text, labels=("model", "node"))
            for place, counts in self._by_place.items():
                histogram = of(counts)
                if histogram.count:
                    family.add_metric(place, _buckets(histogram), histogram.total)
            yield family

    def _queue(self) -> Iterator[Metric]:
        queue = self._readings.queue
        running = _gauge("in_flight", "Requests at an engine now.", ("model", "node"))
        slots = _gauge("slots", "Requests a busy replica runs at once.", ("model", "node"))
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for replica in queue.replicas:
            place = (replica.model, self._name(replica.node_id))
            in_flight, known = sums.get(place, (0, 0))
            sums[place] = in_flight + replica.in_flight, known + replica.slots
        for place, (in_flight, known) in sums.items():
            running.add_metric(place, in_flight)
            slots.add_metric(place, known)
        yield running
        yield slots
        waiting: dict[str, int] = {}
        for request in queue.requests:
            waiting[request.model_key] = waiting.get(request.model_key, 0) + 1
        family = _gauge("waiting", "Requests that wait for a slot.", ("model",))
        for model, count in waiting.items():
            family.add_metric([model], count)
        yield family
        yield _alone("requests_in_flight", "Requests at any engine now.", queue.in_flight)
        yield _alone("requests_waiting", "Requests that wait for a slot anywhere.", queue.waiting)

    def _nodes(self) -> Iterator[Metric]:
        nodes = self._readings.fleet.nodes.values()
        family = _gauge("nodes", "Machines of the herd by status.", ("status",))
        for status in NodeStatus:
            family.add_metric([status.value], sum(node.status is status for node in nodes))
        yield family
        for name, text, value in _NODE:
            family = _gauge(f"node_{name}", text, ("node",))
            for node in nodes:
                family.add_metric([self._name(node.node_id)], value(node))
            yield family
        used = _gauge("gpu_utilisation_ratio", "How busy a GPU is.", ("node", "gpu"))
        free = _gauge("gpu_memory_free_bytes", "Free memory of a GPU.", ("node", "gpu"))
        total = _gauge("gpu_memory_total_bytes", "Memory of a GPU.", ("node", "gpu"))
        for node in nodes:
            for number, gpu in enumerate(node.vitals.gpus):
                labels = [self._name(node.node_id), str(number)]
                if gpu.utilisation_percent is not None:
                    used.add_metric(labels, gpu.utilisation_percent / 100.0)
                free.add_metric(labels, gpu.memory_free_bytes)
                total.add_metric(labels, gpu.memory_total_bytes)
        yield from (used, free, total)
        up = _gauge("engine_up", "Whether an engine answers its agent.", ("node", "engine"))
        for node in nodes:
            is_here = node.status is not NodeStatus.OFFLINE
            for engine in node.engines:
                labels = [self._name(node.node_id), engine.engine_id]
                up.add_metric(labels, is_here and not engine.error)
        yield up

    def _router(self) -> Iterator[Metric]:
        readings = self._readings
        family = _gauge("info", "The version of the router.", ("version",))
        family.add_metric([readings.version], 1)
        yield family
        family = _gauge("health", "0 ok, 1 info, 2 warning, 3 critical.", ("check",))
        for check in readings.health.checks:
            family.add_metric([check.code], RANK[check.severity])
        yield family
        yield _alone("models", "Model names that can be asked for.", len(readings.fleet.replicas))
        yield _alone("dashboards", "Dashboards that follow the herd.", readings.dashboards)
        yield _alone("tasks", "Pieces of work under way in the router.", readings.tasks)
        yield _one("reports_refused", "Reports that were not believed.", readings.refused_reports)
        if readings.traces is not None:
            yield _one("traces_written", "Traces in the database.", readings.traces.written)
            yield _one("traces_dropped", "Traces that were lost.", readings.traces.dropped)
            yield _alone("traces_pending", "Traces that wait.", readings.traces.pending)
            yield _alone("database_bytes", "Size of the database.", readings.traces.file_bytes)

    def _name(self, node_id: str) -> str:
        return self._names.get(node_id, plain(node_id))


_SIMPLE: Sequence[tuple[str, str, _Value]] = (
    ("retries", "Requests that needed another try.", lambda c: c.retried),
    ("hedges", "Requests that were tried on two nodes at once.", lambda c: c.hedged),
    ("continuations", "Answers that another node went on with.", lambda c: c.continued),
    ("broken_streams", "Answers that broke off after they had begun.", lambda c: c.broken),
    ("cancellations", "Requests whose client left.", lambda c: c.cancelled),
    ("model_loads", "Loads that requests waited for.", lambda c: c.loads),
    ("model_load_seconds", "Time of these loads.", lambda c: c.load_s),
    ("prompts_cut", "Prompts longer than the context.", lambda c: c.prompt_cut),
    ("answers_cut", "Answers that ended where the context did.", lambda c: c.context_cut),
)

_HISTOGRAMS: Sequence[tuple[str, str, Callable[[Counts], Histogram]]] = (
    ("time_to_first_token_seconds", "From a request to the first byte.", lambda c: c.ttft_s),
    ("inter_token_seconds", "Mean time of a token after the first.", lambda c: c.decode_s),
    ("queue_wait_seconds", "From a request to its first attempt.", lambda c: c.queue_s),
    ("request_duration_seconds", "From a request to its end.", lambda c: c.total_s),
    ("prediction_ratio", "Actual by predicted time; 1 is perfect.", lambda c: c.error),
)

_NODE: Sequence[tuple[str, str, Callable[[Node], float]]] = (
    ("up", "Whether requests may go there.", lambda n: n.status is not NodeStatus.OFFLINE),
    ("draining", "Whether it takes no new requests.", lambda n: n.draining),
    ("quiet", "Whether its quiet hours last.", lambda n: bool(n.vitals.quiet_until)),
    ("cpu_ratio", "How busy its processors are.", lambda n: n.vitals.cpu_percent / 100.0),
    ("memory_total_bytes", "Its memory.", lambda n: n.vitals.memory_total_bytes),
    ("memory_available_bytes", "Memory to be had.", lambda n: n.vitals.memory_available_bytes),
    ("swap_used_bytes", "Memory moved to disk.", lambda n: n.vitals.swap_used_bytes),
    ("disk_total_bytes", "Its disk with the models.", lambda n: n.vitals.disk_total_bytes),
    ("disk_free_bytes", "What is free of it.", lambda n: n.vitals.disk_free_bytes),
    ("clock_skew_seconds", "Its clock less the router's.", lambda n: n.clock_skew_s),
    ("models_loaded", "Models in memory.", lambda n: sum(len(e.loaded) for e in n.engines)),
)


def _outcomes(counts: Counts) -> Iterable[tuple[str, int]]:
    yield "completed", counts.completed
    yield "client_error", counts.client_errors
    yield "failed", counts.failed
    yield "cancelled", counts.cancelled


def _names(fleet: Fleet) -> Mapping[str, str]:
    """Names of nodes; two that are called alike are told apart by their ids."""
    names = {node_id: plain(node.name) for node_id, node in fleet.nodes.items()}
    known = list(names.values())
    return {
        node_id: name if known.count(name) == 1 else f"{name} ({plain(node_id)})"
        for node_id, name in names.items()
    }


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Counts up to each bound, as Prometheus wants them."""
    found, below = [], 0
    for bound, count in zip(histogram.bounds, histogram.slots[:-1], strict=True):
        below += count
        found.append((str(bound), float(below)))
    return [*found, ("+Inf", float(below + histogram.slots[-1]))]


def _counter(name: str, text: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=labels)


def _gauge(name: str, text: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=labels)


def _alone(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _one(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)
