"""Prints what becomes of requests when a node fails: every fault at every endpoint.

    python bench/faults.py [--requests 12] [--fault close ...] [--path /api/chat ...]

Two nodes with scripted engines, one of them bad. Exit status 1 when a cell lost something.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.e2e.fault_matrix import Cell, cells, rig

MAX_WASTED = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=12, help="requests a cell")
    parser.add_argument("--fault", nargs="*", default=[], help="only these faults")
    parser.add_argument("--path", nargs="*", default=[], help="only these endpoints")
    asked = parser.parse_args()
    print(f"{'fault':17}{'endpoint':30}{'complete':>9}{'told':>5}{'silent':>7}{'text':>5}", end="")
    print(f"{'counts':>7}{'wasted':>7}{'mean ms':>9}{'worst':>8}")
    lost = 0
    with tempfile.TemporaryDirectory() as folder, rig(Path(folder)) as standing:
        for fault, form in cells():
            if asked.fault and fault not in asked.fault:
                continue
            if asked.path and form.path not in asked.path:
                continue
            cell = standing.run(fault, form, asked.requests)
            lost += report(cell, asked.requests)
    print(f"cells that lost something: {lost}")
    return 1 if lost else 0


def report(cell: Cell, requests: int) -> bool:
    """One line; whether anything was lost."""
    print(
        f"{cell.fault:17}{cell.form.name:30}{cell.completed:>6}/{requests}{cell.told:>5}"
        f"{cell.silent:>7}{cell.wrong_text:>5}{cell.wrong_counts:>7}{cell.wasted:>7}"
        f"{cell.added_ms:>9.1f}{cell.worst_ms:>8.0f}",
        flush=True,
    )
    is_bad = cell.completed < requests or cell.wasted > MAX_WASTED or cell.wrong_counts
    if is_bad:
        for seen in sorted(set(cell.seen))[:3]:
            print(f"    {seen[:300]}")
    return bool(is_bad)


if __name__ == "__main__":
    sys.exit(main())
