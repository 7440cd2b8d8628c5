"""The machine a run took place on, in words that name no host and no path."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import nginx


def described() -> dict[str, Any]:
    """CPU, cores, systems and versions; "unknown" for what cannot be told."""
    here = str(Path(__file__).parent)
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "nginx": _first_line(nginx.executable() or "nginx", "-v").rpartition("/")[2],
        "herd": _herd(),
        "commit": _first_line("git", "-C", here, "describe", "--always", "--dirty"),
        "load_average": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
    }


def line(machine: dict[str, Any]) -> str:
    """What a page says of it: the hardware and what the figures depend on."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}"
    )


def _herd() -> str:
    try:
        return importlib.metadata.version("ollama-herd")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _cpu() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [row for row in cpu_info.read_text().splitlines() if row.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return (done.stdout + done.stderr).strip().partition("\n")[0] or "unknown"
