"""What macOS tells about a machine, through the commands that every Mac has."""

import re
import subprocess
from collections.abc import Callable, Sequence

import psutil

from ollama_herd.agent.bandwidth import apple_bandwidth_bytes_s
from ollama_herd.agent.gpu import round_down
from ollama_herd.core.node import Gpu, Pressure

_TIMEOUT_S = 5.0

_PRESSURE = {"1": Pressure.NORMAL, "2": Pressure.WARN, "4": Pressure.CRITICAL}
"""`kern.memorystatus_vm_pressure_level` as in XNU's sys/kern_memorystatus.h."""


Run = Callable[[Sequence[str]], str]
"""Runs a command and gives what it prints, "" when it fails."""


def output(command: Sequence[str]) -> str:
    """What a command prints; "" when it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands, no shell
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout


class MacOs:
    """Reads through commands."""

    has_nvidia = False  # no driver since macOS 10.14

    def __init__(self, run: Run = output) -> None:
        self._run = run

    def chip(self) -> str:
        """`Apple M2 Max`; an Intel Mac says its processor."""
        return " ".join(self._sysctl("machdep.cpu.brand_string").split())

    def bandwidth_bytes_s(self) -> int:
        return apple_bandwidth_bytes_s(self.chip(), parse_gpu_cores(self._accelerators()))

    def pressure(self, _total_bytes: int, _available_bytes: int) -> Pressure:
        return parse_pressure(self._sysctl("kern.memorystatus_vm_pressure_level"))

    def swap_used_bytes(self) -> int:
        return psutil.swap_memory().used

    def temperature_c(self) -> float | None:
        """Nothing without root."""
        return None

    def is_throttled(self) -> bool:
        return parse_thermal(
            self._run(["notifyutil", "-g", "com.apple.system.thermalpressurelevel"]),
            self._run(["pmset", "-g", "therm"]),
        )

    def gpus(self) -> tuple[Gpu, ...]:
        """The graphics processor of an Apple chip. It shares the machine's memory."""
        chip = self.chip()
        if not chip.startswith("Apple"):
            return ()
        memory = psutil.virtual_memory()
        limit_mb = self._sysctl("iogpu.wired_limit_mb")
        statistics = self._accelerators()
        return (apple_gpu(chip, memory.total, memory.available, limit_mb, statistics),)

    def _sysctl(self, name: str) -> str:
        return self._run(["sysctl", "-n", name])

    def _accelerators(self) -> str:
        return self._run(["ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator"])


def parse_pressure(text: str) -> Pressure:
    return _PRESSURE.get(text.strip(), Pressure.NORMAL)


def parse_thermal(notified: str, pmset: str) -> bool:
    """Whether the machine is slowed down for heat.

    `notified` is thermald's level: 0 nominal, 1 moderate (fans speed up, nothing is slowed down
    for long), 2 heavy and more (OSThermalNotification.h). `pmset` has the limit on Intel Macs.
    """
    level = re.search(r"thermalpressurelevel\s+([0-9]+)", notified)
    limit = re.search(r"CPU_Speed_Limit\s*=\s*([0-9]+)", pmset)
    return (level is not None and int(level[1]) >= 2) or (limit is not None and int(limit[1]) < 100)


def apple_gpu(
    chip_name: str, total_bytes: int, available_bytes: int, limit_mb: str, statistics: str
) -> Gpu:
    """`limit_mb` is what the owner lets the GPU have, 0 for the system's own choice."""
    limit = int(limit_mb) * 2**20 if limit_mb.strip().isdigit() else 0
    total = min(limit, total_bytes) if limit else total_bytes
    return Gpu(
        name=chip_name,
        vendor="apple",
        memory_total_bytes=total,
        memory_free_bytes=round_down(min(available_bytes, total)),
        utilisation_percent=parse_utilisation(statistics),
        unified=True,
    )


def parse_utilisation(statistics: str) -> float | None:
    """From the PerformanceStatistics of `ioreg -c IOAccelerator`."""
    match = re.search(r'"Device Utilization %"\s*=\s*([0-9]+)', statistics)
    return float(match[1]) if match else None


def parse_gpu_cores(statistics: str) -> int:
    """Cores of the graphics processor, 0 when it is not said."""
    match = re.search(r'"gpu-core-count"\s*=\s*([0-9]+)', statistics)
    return int(match[1]) if match else 0
