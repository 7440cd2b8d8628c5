"""Processes of the bench: where they run, what CPU they used, how much memory they took.

CPU and memory are read from /proc where it exists (Linux) and through psutil elsewhere; peak
memory can be reset, and is only then a peak of one measurement, on Linux alone.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_HAS_PROC = Path("/proc/self/stat").exists()


def carry_out(modes: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """The load that the first argument orders, in this process; prints what it gave."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    raise_file_limit()
    gc.freeze()
    gc.disable()  # a pause of the load would be taken for one of what is measured
    print(json.dumps(modes[order.pop("mode")](**order)))


def cores() -> tuple[int, int] | None:
    """Core of the proxy and core of the load; None where pinning is impossible or useless."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else None


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes started inside inherit the core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Use every descriptor the system grants; 5,000 streams need over 10,000 in a proxy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def cpu_s(pids: Sequence[int]) -> float:
    """User and system CPU seconds used so far by all threads of the processes."""
    return sum(_cpu_of(pid) for pid in pids)


def _cpu_of(pid: int) -> float:
    if not _HAS_PROC:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    # The name, field 2, may hold blanks: count from behind its bracket. utime is field 14.
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_mb(pids: Sequence[int]) -> float:
    """Resident memory now."""
    return sum(_status_mb(pid, b"VmRSS:") for pid in pids)


def peak_rss_mb(pids: Sequence[int]) -> float:
    """Largest resident memory since the last `reset_peak` (off Linux: resident memory now)."""
    return sum(_status_mb(pid, b"VmHWM:") for pid in pids)


def _status_mb(pid: int, field: bytes) -> float:
    if not _HAS_PROC:
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def reset_peak(pids: Sequence[int]) -> None:
    """Start VmHWM anew: 5 in clear_refs, see proc(5)."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def core_busy_s(core: int) -> float | None:
    """CPU seconds a core has worked for anyone (steal included), to see foreign load."""
    if not _HAS_PROC:
        return None
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, rest.split())
            return (user + nice + system + irq + softirq + steal) * _TICK_S
    return None


def stop(process: subprocess.Popen[bytes], grace_s: float = 6.0) -> None:
    """SIGTERM, then SIGKILL after the grace."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(grace_s)


def wait_for_port(port: int, process: subprocess.Popen[bytes], deadline_s: float = 20.0) -> None:
    """Until something listens there; RuntimeError when the process ends or time is up."""
    end_s = time.monotonic() + deadline_s  # noqa: TID251 - the bench is outside the package
    while time.monotonic() < end_s:  # noqa: TID251
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on port {port} after {deadline_s} s")
