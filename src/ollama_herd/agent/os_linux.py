"""What Linux tells about a machine, from /proc and /sys."""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from ollama_herd.agent.gpu import sysfs_gpus
from ollama_herd.agent.textfile import read_number, read_text
from ollama_herd.core.node import Gpu, Pressure

WARN_AVAILABLE, CRITICAL_AVAILABLE = 0.15, 0.05
"""Shares of the memory that must be available: below the first the page cache, and with it the
model files, is being pushed out; below the second the OOM killer is near (earlyoom acts at 10 %,
most desktops' systemd-oomd later)."""

WARN_SOME_PERCENT, CRITICAL_FULL_PERCENT = 10.0, 20.0
"""Share of the last 10 s in which some, or all, tasks waited for memory. systemd-oomd kills at
60 % for all tasks; much earlier a machine is no place for one more model."""

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")
"""Names of the drivers that measure processors."""


class Linux:
    """Reads below `root`."""

    has_nvidia = True

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._throttle_count = throttle_count(root)

    def chip(self) -> str:
        """The processor's name; on a small ARM board the board's."""
        board = read_text(self._root / "proc/device-tree/model").strip("\0 \n")
        return parse_chip(read_text(self._root / "proc/cpuinfo")) or board

    def bandwidth_bytes_s(self) -> int:
        return 0

    def pressure(self, total_bytes: int, available_bytes: int) -> Pressure:
        psi = read_text(self._root / "proc/pressure/memory")
        return pressure(total_bytes, available_bytes, psi)

    def swap_used_bytes(self) -> int:
        return parse_swap_used(read_text(self._root / "proc/meminfo"))

    def temperature_c(self) -> float | None:
        return cpu_temperature(_sensors())

    def is_throttled(self) -> bool:
        """Whether a processor was slowed down for heat since the last question."""
        before, self._throttle_count = self._throttle_count, throttle_count(self._root)
        return self._throttle_count > before

    def gpus(self) -> tuple[Gpu, ...]:
        return sysfs_gpus(self._root)


class Sensor(NamedTuple):
    """One temperature as psutil gives it."""

    label: str
    current: float


def parse_psi(text: str) -> tuple[float, float]:
    """`/proc/pressure/memory` -> percent of the last 10 s in which (some, all) tasks waited."""
    found = dict(re.findall(r"^(some|full) avg10=([0-9]+\.?[0-9]*)", text, re.MULTILINE))
    return float(found.get("some", 0)), float(found.get("full", 0))


def pressure(total_bytes: int, available_bytes: int, psi: str) -> Pressure:
    """From the memory left, and from how long tasks had to wait for memory."""
    share = available_bytes / total_bytes if total_bytes else 1.0
    some, full = parse_psi(psi)
    if share < CRITICAL_AVAILABLE or full >= CRITICAL_FULL_PERCENT:
        return Pressure.CRITICAL
    if share < WARN_AVAILABLE or some >= WARN_SOME_PERCENT:
        return Pressure.WARN
    return Pressure.NORMAL


def parse_swap_used(meminfo: str) -> int:
    """Bytes of swap in use, from `/proc/meminfo`."""
    kib = dict(re.findall(r"^(SwapTotal|SwapFree):\s+([0-9]+) kB", meminfo, re.MULTILINE))
    return max(0, int(kib.get("SwapTotal", 0)) - int(kib.get("SwapFree", 0))) * 1024


def parse_chip(cpuinfo: str) -> str:
    """The processor's name in `/proc/cpuinfo`; ARM has none there."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def throttle_count(root: Path = Path("/")) -> int:
    """How often processors were slowed down for heat since the start (Intel only)."""
    cpus = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    return sum(read_number(path) or 0 for path in cpus)


def cpu_temperature(sensors: Mapping[str, Iterable[Sensor]]) -> float | None:
    """The hottest processor sensor; None when no sensor is known to be one."""
    values = [
        sensor.current
        for name, found in sensors.items()
        if name in _CPU_SENSORS
        for sensor in found
        if 0 < sensor.current < 150  # absent sensors read 0 or nonsense
    ]
    return max(values, default=None)


if sys.platform == "linux":

    def _sensors() -> Mapping[str, Iterable[Sensor]]:
        """Drivers and their sensors; drivers are many, and some fail in ways of their own."""
        try:
            found = psutil.sensors_temperatures()
        except (OSError, ValueError, RuntimeError):
            return {}
        return {
            name: [Sensor(entry.label, entry.current) for entry in entries]
            for name, entries in found.items()
        }

else:

    def _sensors() -> Mapping[str, Iterable[Sensor]]:
        return {}
