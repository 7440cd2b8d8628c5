"""How busy the processors are, and how much of that is not ours: the machine's owner at work."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath

import psutil

from ollama_herd.clock import monotonic_s

SCAN_EVERY_S = 10.0
"""How often engine processes are looked for; a walk over all processes takes some milliseconds."""

_ENGINES = ("ollama", "llama-server", "llama_server", "llamafile", "vllm", "lm studio", "lms")
"""Beginnings of the names of engine processes and their runners."""

_PYTHON_ENGINES = ("vllm", "mlx_lm", "mlx-lm", "sglang", "xllamacpp", "ollama_herd")
"""Beginnings of the scripts and modules of engines that are Python programs, and of our own."""

_OUR_COMMANDS = ("herd", "herd-node")


class CpuMeter:
    """Measures between one reading and the next; one thread at a time."""

    def __init__(self) -> None:
        self._busy_s, self._all_s = _machine_times()
        self._processes: dict[int, psutil.Process] = {}
        self._used_s: dict[int, float] = {}
        self._scan_due_s = 0.0

    def read(self) -> tuple[float, float | None]:
        """Percent of all processors since the last reading: (in use, used by others).

        Others are all but the engines and the herd; None when an engine's share cannot be read.
        """
        if monotonic_s() >= self._scan_due_s:
            self._scan_due_s = monotonic_s() + SCAN_EVERY_S
            self._processes = {process.pid: process for process in _engine_processes()}
        busy_s, all_s = _machine_times()
        used_s = _process_times(self._processes.values())
        passed_s = all_s - self._all_s
        ours_s = None if used_s is None else spent_s(self._used_s, used_s)
        shares = shares_percent(busy_s - self._busy_s, passed_s, ours_s)
        self._busy_s, self._all_s, self._used_s = busy_s, all_s, used_s or {}
        return shares


def spent_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Processor seconds that known processes used meanwhile; a new one starts to count now."""
    return sum(max(0.0, used - before[pid]) for pid, used in after.items() if pid in before)


def shares_percent(
    busy_s: float, passed_s: float, ours_s: float | None
) -> tuple[float, float | None]:
    """Whole percent (in use, used by others), each in 0..100."""
    if passed_s <= 0:
        return 0.0, None if ours_s is None else 0.0
    busy = min(max(busy_s / passed_s, 0.0), 1.0)
    if ours_s is None:
        return float(round(busy * 100)), None
    return float(round(busy * 100)), float(round(max(0.0, busy - ours_s / passed_s) * 100))


def is_engine(name: str, command: Iterable[str]) -> bool:
    """Whether a process belongs to an engine or to the herd."""
    lowered = name.lower()
    if lowered.startswith(_ENGINES):
        return True
    if not lowered.startswith("python"):
        return lowered.removesuffix(".exe") in _OUR_COMMANDS
    names = [PurePath(part).name for part in command]
    return any(part.startswith(_PYTHON_ENGINES) or part in _OUR_COMMANDS for part in names)


def _engine_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            name = process.name()
            command = process.cmdline() if name.lower().startswith("python") else []
        except psutil.Error:
            continue
        if is_engine(name, command):
            found.append(process)
    return found


def _process_times(processes: Iterable[psutil.Process]) -> dict[int, float] | None:
    """Processor seconds by process id; None when one may not be read."""
    used_s = {}
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.AccessDenied:
            return None
        except psutil.Error:
            continue
        used_s[process.pid] = times.user + times.system
    return used_s


def _machine_times() -> tuple[float, float]:
    """Seconds since the start over all processors: (in use, all)."""
    times = psutil.cpu_times()
    # Linux counts the time of virtual machines within user time; waiting for a disk is idle.
    twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    all_s = sum(times) - twice
    return all_s - times.idle - getattr(times, "iowait", 0.0), all_s
