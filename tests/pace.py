"""Bounds in time that hold on a quiet machine and stretch on one that others use as well.

A bound proves that nothing waits for a timer or a round trip too many; how many other processes
want the same cores is no part of that.
"""

import os
from pathlib import Path

_RUNNABLE = Path("/proc/loadavg")


def crowding() -> float:
    """Processes that want to run, for each core, now or in the last minute; at least 1.

    Always 1 where the system does not tell.
    """
    loads = [0.0]
    if hasattr(os, "getloadavg"):
        loads.append(os.getloadavg()[0])
    if _RUNNABLE.exists():
        loads.append(float(_RUNNABLE.read_text().split()[3].partition("/")[0]))
    return max(1.0, max(loads) / (os.cpu_count() or 1))


def in_time(took_s: float, bound_s: float) -> bool:
    """Whether `took_s` is within the bound, as far as this machine can be held to it."""
    return took_s < bound_s or took_s < bound_s * crowding()
