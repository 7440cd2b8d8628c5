"""Waits for what another thread or process does, with a deadline."""

import time
from collections.abc import Callable

from ollama_herd.clock import monotonic_s


def wait_until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = monotonic_s() + timeout_s
    while not holds():
        assert monotonic_s() < deadline, "it did not happen in time"
        time.sleep(0.01)
