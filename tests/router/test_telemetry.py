"""Spans and measurements at a real OTLP receiver on loopback, from a router with fake engines."""

import gzip
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.processes import Herd, wait_until
from tests.fakes.openai_engine import FakeOpenAI
from tests.fakes.state import Fault
from tests.pace import in_time
from tests.web.fleet import fleet

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SECRET = "canary-7141-nobody-may-see"


class Collector(http.server.ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps what it got."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.resources: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        self.raw.append(body)
        if path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(plain(group.resource.attributes))
                for scope in group.scope_spans:
                    self.spans += scope.spans
        elif path == "/v1/metrics":
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scoped in measured.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scoped.metrics}

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.take(self.path, body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as Python values."""
    found = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, name="collector")
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collector, str]]:
    """What a herd said of a few requests, and its log."""
    folder = tmp_path_factory.mktemp("herd")
    with collecting() as collector:
        env = {"HERD_OTEL_ENDPOINT": f"{collector.url}/"}
        with Herd(folder, env=env).ready() as herd, fleet(herd) as (_, fakes):
            body = {"model": "qwen3:32b", "prompt": SECRET, "stream": True}
            sampled = {"traceparent": f"00-{TRACE_ID}-{PARENT}-01"}
            assert herd.call("POST", "/api/generate", body, sampled).status == 200
            ignored = {"traceparent": f"00-{'1' * 32}-{PARENT}-00"}
            assert herd.call("POST", "/api/generate", body, ignored).status == 200
            strange = {"traceparent": "00-zz", "X-Herd-Tags": "nightly, team"}
            unknown = {"model": "made-up", "messages": [{"role": "user", "content": SECRET}]}
            assert herd.call("POST", "/api/chat", unknown, strange).status == 404
            for fake in fakes:
                fake.fail_next(Fault.CLOSE)
            chat = {**unknown, "model": "qwen3:32b"}
            herd.call("POST", "/v1/chat/completions", chat)
            herd.terminate()
            log = herd.log()
        wait_until(lambda: len(collector.metrics) > 3, 10, "measurements")
        yield collector, log


def test_a_request_is_a_span_within_the_clients_own(seen: tuple[Collector, str]) -> None:
    collector, _ = seen
    mine = [span for span in collector.spans if span.trace_id.hex() == TRACE_ID]
    root = next(span for span in mine if span.parent_span_id.hex() == PARENT)
    assert root.name == "text_completion qwen3:32b"
    assert root.kind == root.SPAN_KIND_SERVER
    said = plain(root.attributes)
    assert said["gen_ai.operation.name"] == "text_completion"
    assert said["gen_ai.provider.name"] == "ollama"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "qwen3:32b"
    assert said["gen_ai.usage.output_tokens"] > 0
    assert said["gen_ai.response.finish_reasons"] == ["stop"]
    assert said["herd.node.name"] in {"studio", "tower"}
    assert said["http.response.status_code"] == 200
    (attempt,) = (span for span in mine if span.parent_span_id == root.span_id)
    assert attempt.kind == attempt.SPAN_KIND_CLIENT
    assert plain(attempt.attributes)["herd.outcome"] == "completed"
    assert [event.name for event in attempt.events] == ["gen_ai.first_token"]
    assert root.start_time_unix_nano <= attempt.start_time_unix_nano
    assert attempt.end_time_unix_nano <= root.end_time_unix_nano


def test_what_the_client_does_not_sample_is_not_sent(seen: tuple[Collector, str]) -> None:
    collector, _ = seen
    assert "1" * 32 not in {span.trace_id.hex() for span in collector.spans}


def test_failures_say_what_failed(seen: tuple[Collector, str]) -> None:
    collector, _ = seen
    (refused,) = collector.named("chat")
    assert plain(refused.attributes)["http.response.status_code"] == 404
    assert plain(refused.attributes)["gen_ai.request.model"] == "made-up"
    assert "nightly" in plain(refused.attributes)["herd.tags"]
    assert not refused.parent_span_id  # its traceparent was none
    tries = [plain(span.attributes) for span in collector.named("chat qwen3:32b")]
    assert "closed_early" in {said.get("error.type") for said in tries}


def test_measurements_follow_the_conventions(seen: tuple[Collector, str]) -> None:
    collector, _ = seen
    assert {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.client.token.usage",
    } <= set(collector.metrics)
    duration = collector.metrics["gen_ai.server.request.duration"]
    assert duration.unit == "s"
    assert sum(point.count for point in duration.histogram.data_points) == 4
    models = {
        plain(point.attributes)["gen_ai.request.model"] for point in duration.histogram.data_points
    }
    assert models == {"qwen3:32b", ""}  # a name that nobody has is no label
    assert collector.resources[0]["service.name"] == "ollama-herd"


def test_no_text_of_a_request_is_sent(seen: tuple[Collector, str]) -> None:
    collector, log = seen
    assert not any(SECRET.encode() in body for body in collector.raw)
    assert SECRET not in log


def test_a_collector_that_is_away_is_told_once_and_holds_nothing_up(tmp_path: Path) -> None:
    with collecting() as collector:
        url = collector.url
    env = {"HERD_OTEL_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Herd(tmp_path, env=env).ready() as herd, fleet(herd):
        body = {"model": "qwen3:32b", "prompt": "x", "stream": False}
        said = "the OpenTelemetry collector takes nothing"
        wait_until(
            lambda: herd.call("POST", "/api/generate", body).status == 200 and said in herd.log(),
            20,
            "the collector's absence to be told",
        )
        status, took_s = herd.terminate()
        assert status == 0
        assert in_time(took_s, 5)
        assert herd.log().count(said) == 1
        assert "Traceback" not in herd.log()


def test_nothing_is_loaded_or_sent_unless_asked_for(tmp_path: Path) -> None:
    with collecting() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with Herd(tmp_path, env=env).ready() as herd, fleet(herd):
            body = {"model": "qwen3:32b", "prompt": "x", "stream": False}
            assert herd.call("POST", "/api/generate", body).status == 200
            herd.terminate()
        assert collector.raw == []


NO_PARENTS = (
    "00-zz",
    "",
    "00",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"ff-{TRACE_ID}-{PARENT}-01",
    f"00-{TRACE_ID}-{PARENT}-01-more",
    f"00-{TRACE_ID[:-1]}-{PARENT}-01",
    f"00-{TRACE_ID}-{PARENT}-",
    "00-" + "é" * 32 + f"-{PARENT}-01",
    "00-" + "1" * 5000,
)


def test_other_engines_are_told_apart_and_wrong_parents_are_none(tmp_path: Path) -> None:
    with collecting() as collector, FakeOpenAI("gguf").in_thread() as engine:
        env = {"HERD_OTEL_ENDPOINT": collector.url, "HERD_ENGINE": engine.url}
        with Herd(tmp_path, env=env).ready() as herd:
            herd.wait_models("gguf")
            body = {"model": "gguf", "messages": [{"role": "user", "content": "x"}]}
            for parent in NO_PARENTS:
                told = {"traceparent": parent}
                assert herd.call("POST", "/api/chat", body, told).status == 200
            herd.terminate()
            assert "Traceback" not in herd.log()
        wait_until(
            lambda: len(collector.named("chat gguf:latest")) == 2 * len(NO_PARENTS), 10, "spans"
        )
    spans = collector.named("chat gguf:latest")
    assert {plain(span.attributes)["gen_ai.provider.name"] for span in spans} == {"openai"}
    roots = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    assert len({span.trace_id for span in roots}) == len(NO_PARENTS)
    assert not any(span.parent_span_id for span in roots)
