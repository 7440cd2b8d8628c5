"""The load of one measurement, as a process: `loadgen.py '{"mode": ..., "port": ...}'`.

Prints one JSON object: what was measured, and `problems`, the answers that were wrong. The
proxy's process ids are in the order, so that its CPU is read at the very start and end of the
load and not around the start of this process.
"""

from collections.abc import Callable, Mapping
from typing import Any

import procs
from load_probes import backpressure, big_bodies, disconnects
from load_requests import closed_loop, sequential
from load_streams import streams

MODES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "requests": closed_loop,
    "latency": sequential,
    "streams": streams,
    "disconnect": disconnects,
    "big_bodies": big_bodies,
    "backpressure": backpressure,
}


if __name__ == "__main__":
    procs.carry_out(MODES)
