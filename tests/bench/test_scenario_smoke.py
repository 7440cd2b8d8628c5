"""`bench/scenario` runs end to end: a router, eight simulated machines, every request answered."""

import subprocess
import sys

from tests.bench.conftest import BENCH


def test_a_short_scenario():
    done = subprocess.run(
        [
            sys.executable,
            BENCH / "scenario" / "run.py",
            *("--horizon", "60", "--requests", "24", "--speed", "20", "--load", "0.3"),
            *("--policies", "expected-completion,round-robin"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["expected-completion", "round-robin"]
    for row in rows:
        requests, failed, _starved = (int(cell) for cell in row[1:4])
        assert requests > 5
        assert failed == 0
    assert rows[0][3].strip() == "0"
    assert float(rows[0][5]) > 0
