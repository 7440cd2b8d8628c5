"""Runs the benches and puts their tables into the documentation.

    python bench/write_docs.py [nginx] [decisions] [store] [seeing] [peers]

All of them without an argument: about three quarters of an hour on a quiet machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import machine
import pages

_HERE = Path(__file__).parent
_PAGE = pages.DOCS / "benchmarks.md"
_STORED_TRACES = 1_000_000
_TESTS = {
    "test_decide": "a decision",
    "test_request_through_an_idle_fleet": "a request through an idle fleet: asked, granted, over",
    "test_a_slot_frees_while_a_thousand_wait": "a slot frees while a thousand wait, 50 nodes",
}


def beside_nginx() -> None:
    _run(str(_HERE / "run.py"), "--write-docs")


def peers() -> None:
    _run(str(_HERE / "peers" / "run.py"), "--write-docs")


def decisions() -> None:
    """From the timings of pytest-benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "timings.json"
        tests = str(_HERE / "bench_decide.py")
        try:
            _run("-m", "pytest", "-q", "-p", "no:cacheprovider", tests, f"--benchmark-json={file}")
        finally:  # a missed target is told by the end of the run, and its figures are written
            if file.exists():
                table = decisions_table(json.loads(file.read_text()))
                pages.put(_PAGE, "decisions", f"{_where()}\n\n{table}")


def decisions_table(timings: Mapping[str, Any]) -> str:
    """Least and median microseconds, a row a test."""
    lines = ["| what | least, µs | median, µs |", "| --- | ---: | ---: |"]
    for one in timings["benchmarks"]:
        name, _, _ = one["name"].partition("[")
        told = _TESTS.get(name, name)
        if one["params"]:
            asked = one["params"]
            told += f" among {asked['count']:,} nodes, {asked['busy']:,} requests under way"
        least, median = (1e6 * one["stats"][key] for key in ("min", "median"))
        lines.append(f"| {told} | {least:,.1f} | {median:,.1f} |")
    return "\n".join(lines)


def store() -> None:
    """Its own words."""
    said = _run(str(_HERE / "bench_store.py"), "--rows", str(_STORED_TRACES))
    pages.put(_PAGE, "store", f"{_where()}\n\n```\n{said.strip()}\n```")


def seeing() -> None:
    """With a compiled core and without."""
    said = [_run(str(_HERE / "bench_seeing.py"), *plain).strip() for plain in ((), ("--plain",))]
    tables = "\n\n".join(said)
    pages.put(_PAGE, "seeing", f"{_where()}\n\n```\n{tables}\n```")


def _where() -> str:
    return f"{machine.line(machine.described())}:"


def _run(*words: str) -> str:
    """Its output, shown too; SystemExit when it fails."""
    lines = []
    command = [sys.executable, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_HERE.parent) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{Path(words[-1]).name}: ended with {process.returncode}")
    return "".join(lines)


PARTS: Mapping[str, Callable[[], None]] = {
    "nginx": beside_nginx,
    "decisions": decisions,
    "store": store,
    "seeing": seeing,
    "peers": peers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all of them without one")
    asked = parser.parse_args().part or list(PARTS)
    unknown = set(asked) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for part in asked:
        PARTS[part]()


if __name__ == "__main__":
    main()
