"""The bench's modules import each other as scripts do; its tests follow."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"

sys.path.append(str(BENCH))
