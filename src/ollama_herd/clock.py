"""The only source of time, so that tests and the simulator can bring their own."""

import time

# Aliases, not wrappers: both are on the request path.
monotonic_s = time.monotonic
"""Seconds that never jump; the time of every deadline and measurement."""

now_s = time.time
"""Seconds since 1970, for what people read and what is written to disk."""
