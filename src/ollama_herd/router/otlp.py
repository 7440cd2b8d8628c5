"""OpenTelemetry's own machinery: batches of spans and measurements on their way to a collector."""

from collections.abc import Sequence
from typing import NamedTuple

import structlog
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

SEND_TIMEOUT_S = 3.0
"""Time for one batch to reach the collector, repeated tries included."""

METRICS_S = 30.0
"""How often measurements are sent."""

_log = structlog.get_logger(__name__)


class Providers(NamedTuple):
    """What makes spans and measurements; `shut_down` sends the last ones and may take long."""

    traces: TracerProvider
    metrics: MeterProvider

    def shut_down(self) -> None:
        self.traces.shutdown()
        self.metrics.shutdown()


def providers(endpoint: str, version: str) -> Providers:
    """Everything goes to `endpoint`, over OTLP/HTTP; nothing is read or sent before it is used."""
    resource = Resource.create({"service.name": "ollama-herd", "service.version": version})
    told = _Told(endpoint)
    traces = TracerProvider(resource=resource, shutdown_on_exit=False)
    traces.add_span_processor(BatchSpanProcessor(_Spans(endpoint, told)))
    reader = PeriodicExportingMetricReader(
        _Metrics(endpoint, told), export_interval_millis=METRICS_S * 1e3
    )
    metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    return Providers(traces, metrics)


class _Told:
    """Says once that a collector is away, and once that it is back."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._is_away = False

    def sent(self, *, is_taken: bool) -> None:
        if is_taken is not self._is_away:
            return
        self._is_away = not is_taken
        if self._is_away:
            _log.warning("the OpenTelemetry collector takes nothing", endpoint=self._endpoint)
        else:
            _log.info("the OpenTelemetry collector takes spans again", endpoint=self._endpoint)


class _Spans(OTLPSpanExporter):
    def __init__(self, endpoint: str, told: _Told) -> None:
        super().__init__(endpoint=f"{endpoint}/v1/traces", timeout=SEND_TIMEOUT_S)
        self._told = told

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self._told.sent(is_taken=result is SpanExportResult.SUCCESS)
        return result


class _Metrics(OTLPMetricExporter):
    def __init__(self, endpoint: str, told: _Told) -> None:
        super().__init__(endpoint=f"{endpoint}/v1/metrics", timeout=SEND_TIMEOUT_S)
        self._told = told

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: object
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self._told.sent(is_taken=result is MetricExportResult.SUCCESS)
        return result
