"""The benches of what seeing costs run end to end, in small."""

import json
import subprocess
import sys

import pytest

import herd
from tests.bench.conftest import BENCH


def result_of(tmp_path, script, *options):
    target = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, BENCH / script, "--json", target, *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(target.read_text())


@pytest.mark.skipif(herd.executable() is None, reason="the herd command is not installed here")
@pytest.mark.skipif(sys.platform == "win32", reason="it is switched by a signal of POSIX")
def test_what_seeing_costs_is_measured(tmp_path):
    found = result_of(tmp_path, "bench_seeing.py", "--rounds", "1", "--seconds", "1", "--plain")
    (rounds,) = found["rounds_us"]
    assert set(rounds) == {"nothing", "counted", "kept", "seen"}
    assert min(rounds.values()) > 0
    assert set(found["costs_us"]) >= {"traces", "one open dashboard", "together"}


@pytest.mark.skipif(herd.executable() is None, reason="the herd command is not installed here")
def test_what_dashboards_do_to_requests_is_measured(tmp_path):
    found = result_of(
        tmp_path, "dashboards.py", "--rounds", "1", "--requests", "100", "--dashboards", "5"
    )
    assert found["events"] >= 5
    assert found["ratio_p99"] > 0
