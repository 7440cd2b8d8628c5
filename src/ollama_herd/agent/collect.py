"""How this machine is doing. Everything is read in threads: a driver or a disk that hangs leaves
the last value standing and never delays a heartbeat.
"""

import asyncio
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec
import psutil
import structlog

from ollama_herd.agent.background import start_in_thread
from ollama_herd.agent.cpu import CpuMeter
from ollama_herd.agent.gpu import GpuReading, Nvidia, round_down
from ollama_herd.agent.os_darwin import MacOs
from ollama_herd.agent.os_linux import Linux
from ollama_herd.agent.os_windows import Windows
from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Gpu, Platform, Pressure, Vitals

_log = structlog.get_logger(__name__)

MACHINE_EVERY_S = 2.0
GPU_EVERY_S = 10.0 if sys.platform == "darwin" else 2.0  # on a Mac it is a command to start
DISK_EVERY_S = 30.0
PLATFORM_EVERY_S = 3600.0  # it does not change; this is for a first reading that failed
TICK_S = 0.5

HANGS_AFTER_S = 10.0
"""When to say that a reading hangs; the slowest sound one takes well under a second."""

FIRST_READING_S = 2.0
"""How long the first report waits for values; without them it says zero."""

SERVICE_MODELS = Path("/usr/share/ollama/.ollama/models")
"""Where the service keeps them that Ollama's installer for Linux makes (its docs/linux.md)."""

_T = TypeVar("_T")


class Source(Generic[_T]):
    """One kind of reading, repeated. `latest` is always there, if old."""

    def __init__(self, name: str, read: Callable[[], _T], first: _T, every_s: float) -> None:
        self.latest = first
        self._name = name
        self._read = read
        self._every_s = every_s
        self._due_s = 0.0
        self._started_s = 0.0
        self._reading: asyncio.Future[_T] | None = None
        self._is_told = False

    def refresh(self) -> None:
        """Start a reading when one is due and none is under way."""
        now_s = monotonic_s()
        if self._reading is not None and not self._reading.done():
            if now_s - self._started_s > HANGS_AFTER_S and not self._is_told:
                self._is_told = True
                _log.warning(f"reading the {self._name} hangs; its last values are reported")
            return
        if now_s < self._due_s:
            return
        self._started_s = now_s
        self._due_s = now_s + self._every_s
        self._reading = start_in_thread(self._read, name=f"read {self._name}")
        self._reading.add_done_callback(self._take)

    async def first(self) -> None:
        """Wait for the reading that is under way."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _take(self, reading: "asyncio.Future[_T]") -> None:
        if reading.cancelled():
            return
        failure = reading.exception()
        if failure is None:
            self.latest = reading.result()
            if self._is_told:
                self._is_told = False
                _log.info(f"reading the {self._name} works again")
        elif not self._is_told:
            self._is_told = True
            _log.warning(f"reading the {self._name} fails", reason=repr(failure))


class Collector:
    """Keeps the vitals of this machine. `home` is where the agent's own files are."""

    def __init__(self, home: Path) -> None:
        system, nvidia, cpu = this_system(), Nvidia(), CpuMeter()
        self._platform = Source(
            "platform", lambda: read_platform(system), read_basics(), PLATFORM_EVERY_S
        )
        self._machine = Source(
            "machine", lambda: read_machine(system, cpu), Vitals(), MACHINE_EVERY_S
        )
        self._gpus = Source("GPUs", lambda: read_gpus(system, nvidia), GpuReading(), GPU_EVERY_S)
        self._disk = Source("disk", lambda: read_disk(models_folder(home)), (0, 0), DISK_EVERY_S)

    async def run(self) -> None:
        """Read for ever."""
        while True:
            self._refresh()
            await asyncio.sleep(TICK_S)

    async def first(self) -> None:
        """Read everything once, but do not wait long for it."""
        self._refresh()
        sources = (self._platform, self._machine, self._gpus, self._disk)
        firsts = [asyncio.ensure_future(source.first()) for source in sources]
        _, late = await asyncio.wait(firsts, timeout=FIRST_READING_S)
        for waiting in late:
            waiting.cancel()

    def platform(self) -> Platform:
        """What the machine is; the speed of the best GPU's memory where it has one."""
        known = self._platform.latest
        fastest = max(known.memory_bandwidth_bytes_s, self._gpus.latest.bandwidth_bytes_s)
        return msgspec.structs.replace(known, memory_bandwidth_bytes_s=fastest)

    def vitals(self) -> Vitals:
        machine, graphics = self._machine.latest, self._gpus.latest
        total_bytes, free_bytes = self._disk.latest
        return msgspec.structs.replace(
            machine,
            disk_total_bytes=total_bytes,
            disk_free_bytes=free_bytes,
            throttled=machine.throttled or graphics.is_throttled,
            gpus=graphics.gpus,
        )

    def _refresh(self) -> None:
        for source in (self._platform, self._machine, self._gpus, self._disk):
            source.refresh()


class System(Protocol):
    """What each operating system tells in its own way. All of it may block."""

    has_nvidia: bool

    def chip(self) -> str: ...
    def bandwidth_bytes_s(self) -> int: ...
    def pressure(self, total_bytes: int, available_bytes: int, /) -> Pressure: ...
    def swap_used_bytes(self) -> int: ...
    def temperature_c(self) -> float | None: ...
    def is_throttled(self) -> bool: ...
    def gpus(self) -> tuple[Gpu, ...]: ...


def this_system() -> System:
    """What this machine runs."""
    systems: dict[str, Callable[[], System]] = {"linux": Linux, "darwin": MacOs}
    return systems.get(sys.platform, Windows)()


def read_machine(system: System, cpu: CpuMeter) -> Vitals:
    """Memory, processors and heat. Values are rounded: finer changes are no news."""
    memory = psutil.virtual_memory()
    busy_percent, foreign_percent = cpu.read()
    temperature_c = system.temperature_c()
    return Vitals(
        memory_total_bytes=memory.total,
        memory_available_bytes=round_down(memory.available),
        swap_used_bytes=round_down(system.swap_used_bytes()),
        cpu_count=psutil.cpu_count() or 0,
        cpu_percent=busy_percent,
        load_1m=round(psutil.getloadavg()[0], 1) if sys.platform != "win32" else None,
        temperature_c=round(temperature_c) if temperature_c is not None else None,
        throttled=system.is_throttled(),
        pressure=system.pressure(memory.total, memory.available),
        foreign_load_percent=foreign_percent,
    )


def read_basics() -> Platform:
    """What is known without reading anything that could hang."""
    return Platform(
        system=platform.system().lower(),
        release=platform.release(),
        machine=platform.machine(),
    )


def read_platform(system: System) -> Platform:
    """What this machine is."""
    return msgspec.structs.replace(
        read_basics(),
        chip=system.chip(),
        memory_bandwidth_bytes_s=system.bandwidth_bytes_s(),
    )


def read_gpus(system: System, nvidia: Nvidia) -> GpuReading:
    """All graphics processors."""
    reading = nvidia.read() if system.has_nvidia else GpuReading()
    return msgspec.structs.replace(reading, gpus=(*reading.gpus, *system.gpus()))


def models_folder(home: Path) -> Path:
    """Where Ollama keeps models, as far as that can be known; else `home`.

    OLLAMA_MODELS, the user's folder, or that of the service on Linux.
    """
    said = os.environ.get("OLLAMA_MODELS", "")
    own = Path("~/.ollama/models").expanduser()
    for folder in (Path(said) if said else None, own, SERVICE_MODELS):
        try:
            if folder is not None and folder.is_dir():
                return folder
        except OSError:  # another user's
            continue
    return home


def read_disk(folder: Path) -> tuple[int, int]:
    """Bytes (in all, free) of the disk with `folder`; free to others than root."""
    usage = psutil.disk_usage(str(folder))
    return usage.total, round_down(usage.free)
