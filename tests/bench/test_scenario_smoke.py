"""`bench/scenario` runs end to end: a router, eight simulated machines, every request answered."""

import subprocess
import sys

import msgspec
import pytest

from tests.bench.conftest import BENCH

sys.path.append(str(BENCH / "scenario"))

import outcomes

PAGE = BENCH.parent / "docs" / "scenario.md"


def test_a_short_scenario(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n" + "\n".join(outcomes.MARKS) + "\nafter\n")
    done = subprocess.run(
        [
            sys.executable,
            BENCH / "scenario" / "run.py",
            *("--horizon", "60", "--requests", "24", "--speed", "20", "--load", "0.3"),
            *("--workloads", "chat", "--policies", "expected-completion,round-robin"),
            *("--json", tmp_path / "day.json", "--write-docs", page),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = msgspec.json.decode((tmp_path / "day.json").read_bytes(), type=list[outcomes.Run])
    assert [run.policy for run in runs] == ["herd", "round-robin"]
    for run in runs:
        assert run.requests > 5
        assert run.failed == 0
    assert runs[0].starved == 0
    assert 0 < runs[0].added.p50 < runs[0].ttft.mean
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert f"| herd | {runs[0].requests} | 0 | 0 | " in text


def test_the_documentation_has_a_place_for_the_tables():
    assert all(mark in PAGE.read_text() for mark in outcomes.MARKS)


def test_a_page_without_a_place_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ValueError, match="has no place"):
        outcomes.write_between_marks(page, "tables")
    assert page.read_text() == "nothing here"
