"""OpenTelemetry: each request that ended as spans and measurements, by the GenAI conventions.

Only where `otel_endpoint` names a collector; nothing is sent anywhere else. Spans are made of
finished traces, in the thread that counts them: a request in flight does nothing for it. Prompts
and answers are in no trace, so they are in no span. The `otel` extra brings the libraries.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ollama_herd.core.counts import TOKEN_BUCKETS_S, TOTAL_BUCKETS_S, TTFT_BUCKETS_S, WAIT_BUCKETS_S
from ollama_herd.core.node import EngineKind
from ollama_herd.core.request import Attempt, Kind, OutcomeKind
from ollama_herd.core.trace import Trace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span, Tracer

CLOSE_S = 0.5
"""Time for the last spans at the end; what a collector does not take by then is lost."""

MAX_TEXT_CHARS = 512

TOKEN_COUNT_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
"""As the GenAI conventions advise for `gen_ai.client.token.usage`."""

_OPERATIONS: Mapping[Kind, str] = {
    Kind.CHAT: "chat",
    Kind.GENERATE: "text_completion",
    Kind.EMBED: "embeddings",
}
_FAILED = frozenset(OutcomeKind) - {OutcomeKind.COMPLETED, OutcomeKind.CANCELLED}

Attributes = dict[str, str | int | float | bool | Sequence[str]]


class TelemetryUnavailable(Exception):  # noqa: N818 - said to a person, not a defect
    """OpenTelemetry is asked for and not installed; the message says what to do."""


class Telemetry:
    """`export` takes finished traces in any one thread; `close` sends the last ones."""

    def __init__(self, endpoint: str, version: str, node_name: Callable[[str], str]) -> None:
        """`endpoint` is `http://host:4318`. Raises TelemetryUnavailable."""
        try:
            from ollama_herd.router.otlp import providers  # noqa: PLC0415 - only with the extra
        except ImportError as error:
            raise TelemetryUnavailable(
                "otel_endpoint is set, but the extra 'otel' is not installed: run uv tool install "
                "'.[otel]' or pip install '.[otel]' in the checkout, or leave the setting out"
            ) from error
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we tell it ourselves, once
        self._providers = providers(endpoint, version)
        self._tracer: Tracer = self._providers.traces.get_tracer("ollama_herd", version)
        self._measures = _Measures(self._providers.metrics.get_meter("ollama_herd", version))
        self._node_name = node_name

    def export(self, trace: Trace) -> None:
        """One span a request, one a wait, one an attempt; never fails for what is in them."""
        from opentelemetry.trace import (  # noqa: PLC0415 - loaded by __init__
            SpanKind,
            Status,
            StatusCode,
            set_span_in_context,
        )

        began_ns = int(trace.started_s * 1e9)
        root = self._tracer.start_span(
            _name(trace),
            context=_remote(trace.trace_parent),
            kind=SpanKind.SERVER,
            attributes=self._attributes(trace),
            start_time=began_ns,
        )
        inside = set_span_in_context(root)
        if root.is_recording():
            if trace.queue_ms >= 1.0 and trace.attempts:
                waited = self._tracer.start_span("queue", context=inside, start_time=began_ns)
                waited.end(_at(began_ns, trace.queue_ms))
            for attempt in trace.attempts:
                self._attempt(trace, attempt, inside, began_ns)
        if trace.error or trace.status >= 500:
            root.set_status(Status(StatusCode.ERROR, trace.error))
        root.end(_at(began_ns, trace.total_ms))
        self._measures.add(trace, inside)

    def close(self) -> None:
        """Send what waits, for at most CLOSE_S. Blocks."""
        last = threading.Thread(target=self._providers.shut_down, name="otel-close", daemon=True)
        last.start()
        last.join(CLOSE_S)

    def _attempt(self, trace: Trace, attempt: Attempt, inside: "Context", began_ns: int) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

        span: Span = self._tracer.start_span(
            _name(trace),
            context=inside,
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": _OPERATIONS.get(trace.request.kind, trace.request.kind),
                "gen_ai.provider.name": _provider(attempt.engine_id),
                "gen_ai.request.model": attempt.model,
                "herd.node.name": self._node_name(attempt.node_id),
                "herd.node.id": attempt.node_id,
                "herd.engine.id": attempt.engine_id,
                "herd.outcome": attempt.outcome.value,
            },
            start_time=_at(began_ns, attempt.started_ms),
        )
        if attempt.status:
            span.set_attribute("http.response.status_code", attempt.status)
        if attempt.first_byte_ms >= 0:
            span.add_event("gen_ai.first_token", timestamp=_at(began_ns, attempt.first_byte_ms))
        if attempt.outcome in _FAILED:
            span.set_attribute("error.type", attempt.outcome.value)
            span.set_status(Status(StatusCode.ERROR, attempt.outcome.value))
        span.end(_at(began_ns, attempt.ended_ms))

    def _attributes(self, trace: Trace) -> Attributes:
        request, usage, decision = trace.request, trace.usage, trace.decision
        found: Attributes = {
            **_labels(trace),
            "gen_ai.request.model": _utf8(request.model),
            "gen_ai.request.stream": request.stream,
            "http.request.method": "POST",
            "url.path": request.path,
            "http.response.status_code": trace.status,
            "client.address": request.client,
            "herd.request.id": request.request_id,
            "herd.queue.duration_ms": trace.queue_ms,
            "herd.attempts": len(trace.attempts),
            "herd.hedged": trace.hedged,
            "herd.continued": trace.continued,
        }
        if trace.node_id:
            found["herd.node.id"] = trace.node_id
            found["herd.node.name"] = self._node_name(trace.node_id)
        if trace.ttft_ms >= 0:
            found["gen_ai.response.time_to_first_chunk"] = trace.ttft_ms / 1e3
        if decision is not None and decision.first_token_ms >= 0:
            found["herd.predicted.time_to_first_token_ms"] = decision.first_token_ms
        optional = {
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
            "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
            "gen_ai.response.finish_reasons": (usage.done_reason,) if usage else None,
            "herd.tags": tuple(map(_utf8, trace.tags)) or None,
            "herd.key.name": trace.key_name or None,
        }
        return found | {name: value for name, value in optional.items() if value is not None}


class _Measures:
    """The histograms of the conventions for servers, and tokens as clients count them."""

    def __init__(self, meter: "Meter") -> None:
        def seconds(name: str, text: str, bounds: Sequence[float]) -> "Histogram":
            return meter.create_histogram(
                name, "s", text, explicit_bucket_boundaries_advisory=bounds
            )

        self._duration = seconds(
            "gen_ai.server.request.duration", "From a request to its end.", TOTAL_BUCKETS_S
        )
        self._first = seconds(
            "gen_ai.server.time_to_first_token", "To the first byte.", TTFT_BUCKETS_S
        )
        self._each = seconds(
            "gen_ai.server.time_per_output_token", "After the first.", TOKEN_BUCKETS_S
        )
        self._queue = seconds("herd.queue.duration", "Wait for a slot.", WAIT_BUCKETS_S)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens as engines count them.",
            explicit_bucket_boundaries_advisory=TOKEN_COUNT_BUCKETS,
        )

    def add(self, trace: Trace, inside: "Context") -> None:
        labels = _labels(trace)
        self._duration.record(trace.total_ms / 1e3, labels, inside)
        self._queue.record(trace.queue_ms / 1e3, labels, inside)
        if trace.ttft_ms >= 0:
            self._first.record(trace.ttft_ms / 1e3, labels, inside)
        usage = trace.usage
        if usage is None:
            return
        if usage.decode_ms is not None and usage.output_tokens and usage.output_tokens > 1:
            self._each.record(usage.decode_ms / 1e3 / usage.output_tokens, labels, inside)
        for kind, count in (("input", usage.prompt_tokens), ("output", usage.output_tokens)):
            if count is not None:
                self._tokens.record(count, {**labels, "gen_ai.token.type": kind}, inside)


def _labels(trace: Trace) -> Attributes:
    """What measurements are told apart by. A model that nobody has is no label."""
    request = trace.request
    labels: Attributes = {
        "gen_ai.operation.name": _OPERATIONS.get(request.kind, request.kind.value),
        "gen_ai.provider.name": _provider(trace.attempts[-1].engine_id if trace.attempts else ""),
        "gen_ai.request.model": request.model_key if trace.attempts else "",
    }
    if trace.model_served:
        labels["gen_ai.response.model"] = trace.model_served
    if trace.error or trace.status >= 400:
        labels["error.type"] = trace.error or str(trace.status)
    return labels


def _provider(engine_id: str) -> str:
    """Who answers, by the conventions' flavours: an Ollama, or what speaks as OpenAI does.

    An engine's id begins with its kind; pictures and speech come from OpenAI-compatible servers. A
    request that reached no engine was for an Ollama, which the herd stands for.
    """
    is_ollama = not engine_id or engine_id.startswith(EngineKind.OLLAMA.value)
    return EngineKind.OLLAMA.value if is_ollama else EngineKind.OPENAI.value


def _name(trace: Trace) -> str:
    """As the conventions want it: operation and model."""
    operation = _OPERATIONS.get(trace.request.kind, trace.request.kind.value)
    return f"{operation} {trace.request.model_key}".strip() if trace.attempts else operation


def _utf8(text: str) -> str:
    """Clients' texts may hold what no encoding takes (lone surrogates), and be of any length."""
    return text[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode("utf-8")


def _at(began_ns: int, after_ms: float) -> int:
    return began_ns + int(max(0.0, after_ms) * 1e6)


def _remote(trace_parent: str) -> "Context | None":
    """The client's own span, as W3C's `traceparent` names it; None without a proper one."""
    if not trace_parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    return TraceContextTextMapPropagator().extract({"traceparent": trace_parent})
