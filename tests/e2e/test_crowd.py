"""Memory stays bounded while thousands wait, and newcomers are answered meanwhile."""

import sys
from pathlib import Path

import pytest

from tests.e2e.crowd import PROMPT_BYTES, gather
from tests.pace import in_time

CLIENTS = 2000
WAITING = 1500
EACH_BYTES = 20_000 + 3 * PROMPT_BYTES
"""Its socket's objects, its request as it came, and the one that goes to an engine."""


@pytest.mark.skipif(sys.platform == "win32", reason="fewer sockets in a selector")
def test_a_crowd_costs_little_and_starves_nobody(tmp_path: Path) -> None:
    seen = gather(tmp_path, CLIENTS, WAITING)
    assert seen.told == CLIENTS - WAITING
    assert seen.bytes_each < EACH_BYTES
    # The second crowd fits into what the first one left behind.
    assert seen.again_bytes - seen.crowded_bytes < 0.2 * CLIENTS * EACH_BYTES
    assert in_time(seen.slowest_ms, 1000)
