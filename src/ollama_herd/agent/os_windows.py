"""What Windows tells about a machine; also serves systems that are nothing else we know."""

import sys

import psutil

from ollama_herd.core.node import Gpu, Pressure

WARN_LOAD_PERCENT, CRITICAL_LOAD_PERCENT = 85.0, 95.0
"""Share of the physical memory in use (as dwMemoryLoad of GlobalMemoryStatusEx). Windows says no
level of its own; these leave as little as the thresholds for Linux do."""


class Windows:
    """Reads through psutil and the registry."""

    has_nvidia = True

    def chip(self) -> str:
        return clean_chip(_processor_name())

    def bandwidth_bytes_s(self) -> int:
        return 0

    def pressure(self, total_bytes: int, available_bytes: int) -> Pressure:
        used = 1 - available_bytes / total_bytes if total_bytes else 0.0
        return pressure(used * 100)

    def swap_used_bytes(self) -> int:
        return psutil.swap_memory().used

    def temperature_c(self) -> float | None:
        """Nothing without administrator's rights."""
        return None

    def is_throttled(self) -> bool:
        return False

    def gpus(self) -> tuple[Gpu, ...]:
        """None beside NVIDIA's: no interface that every maker's driver serves."""
        return ()


def pressure(load_percent: float) -> Pressure:
    if load_percent >= CRITICAL_LOAD_PERCENT:
        return Pressure.CRITICAL
    return Pressure.WARN if load_percent >= WARN_LOAD_PERCENT else Pressure.NORMAL


def clean_chip(name: str) -> str:
    """Intel pads names with blanks and marks."""
    for mark in ("(R)", "(TM)", "(r)", "(tm)"):
        name = name.replace(mark, "")
    return " ".join(name.split())


if sys.platform == "win32":
    import winreg

    def _processor_name() -> str:
        """As the system shows it."""
        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as processor:
                return str(winreg.QueryValueEx(processor, "ProcessorNameString")[0])
        except OSError:
            return ""

else:

    def _processor_name() -> str:
        return ""
