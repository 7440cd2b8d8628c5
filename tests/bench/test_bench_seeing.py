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


def test_what_seeing_costs_is_measured(tmp_path):
    found = result_of(
        tmp_path, "bench_seeing.py", "--rounds", "1", "--seconds", "0.5", "--rate", "400"
    )
    assert set(found["rounds_us"]) == {"nothing", "counted", "kept", "seen"}
    assert all(len(values) == 1 and values[0] > 0 for values in found["rounds_us"].values())


@pytest.mark.skipif(herd.executable() is None, reason="the herd command is not installed here")
def test_what_dashboards_do_to_requests_is_measured(tmp_path):
    found = result_of(
        tmp_path, "dashboards.py", "--rounds", "1", "--requests", "100", "--dashboards", "5"
    )
    assert found["events"] >= 5
    assert found["ratio_p99"] > 0
