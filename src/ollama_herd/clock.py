"""The only source of time, so that tests and the simulator can bring their own."""

import time

# Aliases, not wrappers: both are on the request path.
monotonic_s = time.monotonic
"""Seconds that never jump; the time of every deadline and measurement."""

now_s = time.time
"""Seconds since 1970, for what people read and what is written to disk."""


def week_s() -> float:
    """Seconds since Monday 0:00 by the clock on the wall here (as if no hour was ever changed)."""
    here = time.localtime(now_s())
    return ((here.tm_wday * 24 + here.tm_hour) * 60 + here.tm_min) * 60.0 + here.tm_sec
