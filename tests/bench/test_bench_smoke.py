"""`bench/run.py` runs end to end: real proxies, real loads, every body checked."""

import json
import subprocess
import sys

import pytest

import herd
import nginx
from tests.bench.conftest import BENCH

needs_nginx = pytest.mark.skipif(nginx.executable() is None, reason=nginx.HOW_TO_INSTALL)


def _run(tmp_path, *options):
    target = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, BENCH / "run.py", "--quick", "--json", target, *options],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done, json.loads(target.read_text()) if target.exists() else None


@needs_nginx
@pytest.mark.parametrize("extra", [[], ["--own-load"]], ids=["wrk-if-there", "own-load"])
def test_small_requests_through_nginx(tmp_path, extra):
    done, results = _run(tmp_path, "--only", "small", "--proxy", "nginx", "--rounds", "1", *extra)

    assert done.returncode == 0, done.stdout + done.stderr
    assert results["problems"] == []
    cost = next(row for row in results["figures"] if row["figure"] == "cpu_us")
    assert cost["nginx"][0] > 0
    assert cost["ratio"] is None
    assert "Small requests" in done.stdout


@needs_nginx
def test_clients_that_leave_are_seen_by_the_engine(tmp_path):
    done, results = _run(tmp_path, "--only", "disconnect", "--proxy", "nginx")

    assert done.returncode == 0, done.stdout + done.stderr
    slowest = next(row for row in results["figures"] if row["figure"] == "max_ms")
    assert 0 < slowest["nginx"][0] < 1000


@pytest.mark.skipif(herd.executable() is None, reason="the herd command is not installed here")
def test_the_herd_serves_small_requests_and_lets_go_of_clients_that_leave(tmp_path):
    done, results = _run(
        tmp_path, "--only", "small", "--only", "disconnect", "--proxy", "herd", "--rounds", "1"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert results["problems"] == []
    cost = next(row for row in results["figures"] if row["figure"] == "cpu_us")
    assert cost["herd"][0] > 0
    assert {"small", "disconnect"} == set(results["scenarios"])


def test_an_unknown_proxy_is_refused_with_its_name(tmp_path):
    done, results = _run(tmp_path, "--proxy", "squid")

    assert done.returncode == 2
    assert "squid" in done.stderr
    assert results is None
