"""Health at a real router: a machine goes away, comes back, and both are told, shown and kept."""

from pathlib import Path
from typing import Any

from ollama_herd.core.health.checks import CHECKS
from tests.e2e.processes import Herd, wait_until
from tests.fakes.state import Fault
from tests.web.fleet import SMALL_FLEET, Heartbeats, fleet


def state(herd: Herd) -> dict[str, Any]:
    answer = herd.call("GET", "/dashboard/api/health")
    assert answer.status == 200, answer.body
    health: dict[str, Any] = answer.json()
    return health


def check(herd: Herd, code: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in state(herd)["checks"] if c["code"] == code)
    return found


def changes(herd: Herd) -> list[tuple[str, str, str, str]]:
    answer = herd.call("GET", "/dashboard/api/health/changes?limit=20")
    assert answer.status == 200, answer.body
    return [(c["code"], c["name"], c["before"], c["after"]) for c in answer.json()["changes"]]


def test_a_machine_that_leaves_and_comes_back(tmp_path: Path) -> None:
    gone = ("node-offline", "tower", "ok", "critical")
    over = ("node-offline", "tower", "critical", "ok")
    with Herd(tmp_path).ready() as herd:
        with fleet(herd) as (beats, _):
            assert [one["code"] for one in state(herd)["checks"]] == [one.code for one in CHECKS]
            assert check(herd, "node-offline")["severity"] == "ok"
            beats.leave("tower")
            wait_until(
                lambda: check(herd, "node-offline")["severity"] == "critical", 15, "a finding"
            )
            finding = check(herd, "node-offline")["findings"][0]
            assert finding["name"] == "tower"
            assert "nobody else has mistral-small3.2:24b" in finding["seen"]
            assert "herd-node" in finding["advice"]
            assert finding["since_s"] > 1.7e9
            assert state(herd)["overall"] == "critical"
            wait_until(lambda: gone in changes(herd), 10, "the change to be kept")
        with Heartbeats(herd, SMALL_FLEET, [1]):
            wait_until(lambda: over in changes(herd), 30, "the end to be kept")
            assert check(herd, "node-offline")["severity"] == "ok"
        log = herd.log()
        assert log.count("health: critical") == 1
        assert log.count("health: over") == 1
        bad = herd.call("GET", "/dashboard/api/health/changes?limit=x")
        assert (bad.status, bad.json()["field"]) == (400, "limit")
        assert herd.call("GET", "/dashboard/api/health/changes?nodes=1").json()["field"] == "nodes"
        herd.terminate()
    with Herd(tmp_path).ready() as again:
        assert {gone, over} <= set(changes(again))


def test_failures_are_counted_without_traces(tmp_path: Path) -> None:
    """Health does not need the store: counting is its own."""
    with Herd(tmp_path, env={"HERD_TRACES": "false"}).ready() as herd, fleet(herd) as (_, engines):
        for engine in engines:
            engine.fail_next(Fault.ERROR_500, times=-1)
        body = {"model": "qwen3:32b", "prompt": "x", "stream": False}
        for _ in range(25):
            assert herd.call("POST", "/api/generate", body).status >= 500
        wait_until(lambda: check(herd, "error-rate")["severity"] == "critical", 15, "a finding")
        assert "25 of 25 requests failed" in check(herd, "error-rate")["seen"]
        assert check(herd, "store")["severity"] == "ok"
