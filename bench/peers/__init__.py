"""The herd beside other routers; see run.py."""

import sys
from pathlib import Path

_BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [place for place in (str(_BENCH), str(_BENCH.parent)) if place not in sys.path]
