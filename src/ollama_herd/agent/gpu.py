"""Graphics processors: NVIDIA through its driver's library, AMD and Intel through sysfs.

A machine without them is the normal case, and silent. Apple's are in os_darwin.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pynvml

from ollama_herd.agent.bandwidth import nvidia_bandwidth_bytes_s
from ollama_herd.agent.textfile import read_number, read_text
from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Gpu

TRY_AGAIN_S = 60.0
"""A driver may be loaded, or come back after an update, while the agent runs."""

LEAST_MEMORY_BYTES = 2**30
"""Below it a card is a processor's own graphics with a small share of the machine's memory, which
no engine uses for models: such a machine is better seen as one without a card."""

_THERMAL_SLOWDOWN = 0x20 | 0x40
"""nvmlClocksEventReasonSwThermalSlowdown and …HwThermalSlowdown of nvml.h."""

_AMD, _INTEL = "0x1002", "0x8086"  # PCI vendor ids

_T = TypeVar("_T")


class GpuReading(msgspec.Struct, frozen=True):
    """Graphics processors, the speed of the fastest memory among them, and their heat."""

    gpus: tuple[Gpu, ...] = ()
    is_throttled: bool = False
    bandwidth_bytes_s: int = 0


class Nvidia:
    """NVIDIA's cards. `nvml` is the pynvml module."""

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._is_open = False
        self._try_again_s = 0.0

    def read(self) -> GpuReading:
        """Empty without a working driver."""
        nvml = self._nvml
        if not self._open():
            return GpuReading()
        try:
            count = nvml.nvmlDeviceGetCount()
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            return GpuReading(
                gpus=tuple(self._gpu(handle) for handle in handles),
                is_throttled=any(self._is_throttled(handle) for handle in handles),
                bandwidth_bytes_s=max(map(self._bandwidth_bytes_s, handles), default=0),
            )
        except nvml.NVMLError:  # the driver went away: an update, a lost card
            self._close()
            return GpuReading()

    def _open(self) -> bool:
        if not self._is_open and monotonic_s() >= self._try_again_s:
            try:
                self._nvml.nvmlInit()
                self._is_open = True
            except self._nvml.NVMLError:
                self._try_again_s = monotonic_s() + TRY_AGAIN_S
        return self._is_open

    def _close(self) -> None:
        self._is_open = False
        self._try_again_s = monotonic_s() + TRY_AGAIN_S
        self._told(self._nvml.nvmlShutdown)

    def _gpu(self, handle: Any) -> Gpu:
        nvml = self._nvml
        name = nvml.nvmlDeviceGetName(handle)
        memory = self._told(nvml.nvmlDeviceGetMemoryInfo, handle)
        use = self._told(nvml.nvmlDeviceGetUtilizationRates, handle)
        heat = self._told(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        return Gpu(
            name=name.decode() if isinstance(name, bytes) else name,
            vendor="nvidia",
            memory_total_bytes=memory.total if memory else 0,
            memory_free_bytes=round_down(memory.free) if memory else 0,
            utilisation_percent=float(use.gpu) if use else None,
            temperature_c=float(heat) if heat is not None else None,
            unified=memory is None,  # Jetson and GB10: the driver has no memory of its own to tell
        )

    def _is_throttled(self, handle: Any) -> bool:
        nvml = self._nvml
        reasons = self._told(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return bool((reasons or 0) & _THERMAL_SLOWDOWN)

    def _bandwidth_bytes_s(self, handle: Any) -> int:
        nvml = self._nvml
        clock = self._told(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM)
        width = self._told(nvml.nvmlDeviceGetMemoryBusWidth, handle)
        return nvidia_bandwidth_bytes_s(clock or 0, width or 0)

    def _told(self, ask: Callable[..., _T], *arguments: object) -> _T | None:
        """What a card tells; None for what this model of it does not."""
        nvml = self._nvml
        try:
            return ask(*arguments)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise
            return None


def sysfs_gpus(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """AMD's cards, and Intel's where their driver tells of memory."""
    found = []
    for device in sorted((root / "sys/class/drm").glob("card[0-9]*/device")):
        if "-" in device.parent.name:  # card0-HDMI-A-1 is a connector
            continue
        vendor = read_text(device / "vendor").strip()
        gpu = _amd(device) if vendor == _AMD else _intel(device) if vendor == _INTEL else None
        if gpu is not None and gpu.memory_total_bytes >= LEAST_MEMORY_BYTES:
            found.append(gpu)
    return tuple(found)


def _amd(device: Path) -> Gpu:
    """Files of the amdgpu driver (docs.kernel.org/gpu/amdgpu/driver-misc.html)."""
    total = read_number(device / "mem_info_vram_total") or 0
    used = read_number(device / "mem_info_vram_used") or 0
    busy = read_number(device / "gpu_busy_percent")
    return Gpu(
        name=_name(device, "AMD"),
        vendor="amd",
        memory_total_bytes=total,
        memory_free_bytes=round_down(max(0, total - used)),
        utilisation_percent=float(busy) if busy is not None else None,
        temperature_c=_temperature(device),
    )


def _intel(device: Path) -> Gpu:
    """Files of the i915 driver for cards with memory of their own."""
    card = device.parent
    return Gpu(
        name=_name(device, "Intel"),
        vendor="intel",
        memory_total_bytes=read_number(card / "lmem_total_bytes") or 0,
        memory_free_bytes=round_down(read_number(card / "lmem_avail_bytes") or 0),
        temperature_c=_temperature(device),
    )


def _name(device: Path, maker: str) -> str:
    said = " ".join(read_text(device / "product_name").split())
    return said or f"{maker} GPU {read_text(device / 'device').strip()}".strip()


def _temperature(device: Path) -> float | None:
    return next(_temperatures(device), None)


def _temperatures(device: Path) -> Iterator[float]:
    for path in sorted(device.glob("hwmon/hwmon*/temp1_input")):
        thousandths = read_number(path)
        if thousandths is not None:
            yield round(thousandths / 1000)


def round_down(count: int) -> int:
    """Whole MiB: finer changes are no news."""
    return count >> 20 << 20
