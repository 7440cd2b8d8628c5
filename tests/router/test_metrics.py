"""`/metrics` read by Prometheus's own parsers, at a real router with fake engines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from ollama_herd.core.counts import TTFT_BUCKETS_S
from tests.e2e.processes import Herd, wait_until
from tests.fakes.state import Fault
from tests.web.fleet import fleet

BOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana-dashboard.json"
HOSTILE = 'a"b\\c\nd\x00\x1b[31m{x="1"} 7'


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    """Served, refused, retried, cancelled; names that would break a careless format."""
    with Herd(tmp_path_factory.mktemp("herd")).ready() as herd, fleet(herd) as (_, fakes):
        body = {"model": "qwen3:32b", "prompt": "a secret", "stream": True}
        for _ in range(5):
            assert herd.call("POST", "/api/generate", body).status == 200
        assert (
            herd.call("POST", "/api/generate", {"model": "nobody-has-it", "prompt": "x"}).status
            == 404
        )
        for fake in fakes:
            fake.fail_next(Fault.CLOSE)
        herd.call("POST", "/api/generate", body)
        report = {
            "node_id": "evil",
            "boot": 1,
            "seq": 1,
            "name": HOSTILE,
            "platform": {},
            "vitals": {"gpus": [{"name": HOSTILE}]},
            "engines": [],
        }
        key = {"Authorization": "Bearer evil"}
        assert herd.call("POST", "/fleet/heartbeat", report, key).status == 200
        wait_until(lambda: value(herd, "herd_requests_total") >= 7, 5, "requests to be counted")
        yield herd


def scraped(herd: Herd, accept: str = "") -> tuple[str, str]:
    answer = herd.call("GET", "/metrics", headers={"Accept": accept})
    assert answer.status == 200, answer.body
    return answer.header("content-type"), answer.body.decode()


def value(herd: Herd, name: str, **labels: str) -> float:
    """The sum of all samples with this name and these labels."""
    return sum(
        sample.value
        for family in prometheus(scraped(herd)[1])
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_both_formats_can_be_read(herd: Herd) -> None:
    kind, text = scraped(herd)
    assert kind.startswith("text/plain")
    plain = {family.name for family in prometheus(text)}
    kind, text = scraped(herd, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics(text)} == plain
    assert all(family.documentation for family in openmetrics(text))


def test_no_series_is_there_twice(herd: Herd) -> None:
    seen = set()
    for family in prometheus(scraped(herd)[1]):
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            assert series not in seen
            seen.add(series)


def test_counts_are_those_of_what_happened(herd: Herd) -> None:
    assert value(herd, "herd_requests_total", outcome="completed") >= 5
    assert value(herd, "herd_requests_total", outcome="client_error") == 1
    assert value(herd, "herd_refusals_total", reason="unknown_model") == 1
    assert value(herd, "herd_retries_total") == 1
    assert value(herd, "herd_attempts_total", outcome="closed_early") >= 1
    assert value(herd, "herd_tokens_total", direction="output") > 0
    assert value(herd, "herd_nodes", status="online") == 3
    assert value(herd, "herd_node_memory_total_bytes", node="tower") == 64 * 2**30
    assert value(herd, "herd_requests_in_flight") == 0
    assert value(herd, "herd_health", check="store") == 0


def test_a_histogram_counts_up_to_all(herd: Herd) -> None:
    model = {"model": "qwen3:32b"}
    slots = [
        value(herd, "herd_time_to_first_token_seconds_bucket", le=le, **model)
        for le in (*(str(bound) for bound in TTFT_BUCKETS_S), "+Inf")
    ]
    assert slots == sorted(slots)
    assert slots[-1] == value(herd, "herd_time_to_first_token_seconds_count", **model) >= 5


def test_strange_names_make_no_lines_of_their_own(herd: Herd) -> None:
    _, text = scraped(herd)
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "a secret" not in text
    names = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.match(r"(herd|process|python)_\w+(\{.*\})? -?[\d.e+\-naNI]+$", n) for n in names)


def test_every_metric_of_the_grafana_board_exists(herd: Herd) -> None:
    board = json.loads(BOARD.read_text())
    asked = set()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            asked |= set(re.findall(r"\bherd_\w+", target["expr"]))
    for variable in board["templating"]["list"]:
        asked |= set(re.findall(r"\bherd_\w+", str(variable.get("query", ""))))
    there = set()
    for family in prometheus(scraped(herd)[1]):
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        there |= {family.name + end for end in kinds.get(family.type, [""])}
    assert len(asked) > 15
    assert asked <= there
