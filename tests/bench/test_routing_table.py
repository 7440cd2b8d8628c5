"""`bench/routing/run.py` prints the herd against the policies, and says what is reached."""

import subprocess
import sys

from tests.bench.conftest import BENCH


def _run(*options):
    done = subprocess.run(
        [
            sys.executable,
            BENCH / "routing" / "run.py",
            "--seeds",
            "2",
            "--requests",
            "60",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [table.splitlines() for table in done.stdout.strip().split("\n\n")]


def test_the_tables_and_what_is_reached():
    policies = "herd,reference,least-requests,point-sum"
    ratios, against, verdicts, seconds = _run("--only", "f3 chat", "--policies", policies)
    assert [line.split(" | ")[0] for line in ratios[2:]] == [f"| {p}" for p in policies.split(",")]
    assert len(against) == 2 + 2 + 1  # head, two workloads, the mean
    means = [float(cell.strip("| *").split("**")[0]) for cell in against[-1].split(" | ")[1:]]
    stated = [float(line.split(": ")[1].split(",")[0]) for line in verdicts[:5]]
    assert means == stated
    for line, most in zip(verdicts, (1.1, 1.1, 1.1, 0.4, 0.2), strict=False):
        value = float(line.split(": ")[1].split(",")[0])
        assert line.endswith("NOT reached") == (value > most)
    assert verdicts[-1].endswith(": 0")
    assert [row.split(" | ")[0] for row in seconds[2:]] == ["| f3 chat 0.3", "| f3 chat 0.8"]


def test_more_workloads_instead():
    _, against, *_ = _run("--more", "--only", "f3", "--policies", "herd,reference")
    assert [row.split(" | ")[0] for row in against[2:]] == [
        "| f3 bursts 0.4",
        "| **geometric mean**",
    ]


def test_other_policies_alone_have_nothing_to_reach():
    (ratios, verdicts, _) = _run("--quick", "--only", "f3", "--policies", "herd,random")
    assert len(ratios) == 4
    assert len(verdicts) == 1
