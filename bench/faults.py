"""Prints what becomes of requests when a node fails: every fault at every endpoint.

    python bench/faults.py [--requests 12] [--at-once 1] [--fault close ...] [--path /api/chat ...]

Two nodes with scripted engines, one of them bad. Exit status 1 when a cell lost something, and also
when no request of a cell met its fault: such a cell shows nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.fault_table import HEADINGS, line, table
from tests.e2e.fault_matrix import cells, rig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=12, help="requests a cell")
    parser.add_argument("--at-once", type=int, default=1, help="how many of them at a time")
    parser.add_argument("--fault", nargs="*", default=[], help="only these faults")
    parser.add_argument("--path", nargs="*", default=[], help="only these endpoints")
    parser.add_argument("--table", action="store_true", help="a Markdown table of the sums as well")
    asked = parser.parse_args()
    run = []
    print(HEADINGS)
    with tempfile.TemporaryDirectory() as folder, rig(Path(folder)) as standing:
        for fault, form in cells():
            if asked.fault and fault not in asked.fault:
                continue
            if asked.path and form.path not in asked.path:
                continue
            cell = standing.run(fault, form, asked.requests, asked.at_once)
            run.append(cell)
            print(line(cell), flush=True)
    failed = [cell for cell in run if not cell.is_proof]
    if asked.table:
        print(f"\n{table(run)}\n")
    unmet = sum(not cell.met for cell in run)
    print(f"{len(run)} cells, {len(failed)} without the proof, {unmet} of them met no fault")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
