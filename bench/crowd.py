"""Prints what clients that wait cost a router: memory for each, and what newcomers feel.

python bench/crowd.py [--clients 5000]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.e2e.crowd import PROMPT_BYTES, gather

import procs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5000, help="that wait at once")
    asked = parser.parse_args()
    procs.raise_file_limit()
    with tempfile.TemporaryDirectory() as folder:
        seen = gather(Path(folder), asked.clients, asked.clients)
    print(f"clients waiting, {PROMPT_BYTES} bytes of prompt each: {seen.waiting}")
    print(f"router before: {seen.before_bytes / 1e6:.0f} MB")
    print(f"router with all of them: {seen.crowded_bytes / 1e6:.0f} MB")
    print(f"router when they come a second time: {seen.again_bytes / 1e6:.0f} MB")
    print(f"each: {seen.bytes_each / 1000:.1f} kB")
    median_ms = statistics.median(seen.answer_ms)
    print(f"GET /api/tags meanwhile: {median_ms:.1f} ms, at worst {seen.slowest_ms:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
