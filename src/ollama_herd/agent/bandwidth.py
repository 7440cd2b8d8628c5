"""How fast a machine reads its memory: what bounds the speed of generation. Pure.

0 means unknown everywhere. The values are what the makers state; measured ones are lower, which
the router learns.
"""

_GB_S = 1_000_000_000

APPLE_GB_S = {
    "M1": 68,
    "M1 Pro": 200,
    "M1 Max": 400,
    "M1 Ultra": 800,
    "M2": 100,
    "M2 Pro": 200,
    "M2 Max": 400,
    "M2 Ultra": 800,
    "M3": 100,
    "M3 Pro": 150,
    "M3 Max": 300,
    "M3 Ultra": 819,
    "M4": 120,
    "M4 Pro": 273,
    "M4 Max": 410,
    "M5": 153,
    "M5 Pro": 307,
    "M5 Max": 460,
}
"""Memory bandwidth in GB/s from the technical specifications of the Macs with each chip
(support.apple.com/specs, apple.com newsroom), of the smaller variant where there are two."""

APPLE_LARGE_GB_S = {"M3 Max": 400, "M4 Max": 546, "M5 Max": 614}
"""The variants with 40 GPU cores, from the same pages."""

_LARGE_GPU_CORES = 40


def apple_bandwidth_bytes_s(chip: str, gpu_cores: int) -> int:
    """Of `Apple M4 Max` and the like; `gpu_cores` 0 when unknown."""
    model = chip.removeprefix("Apple ").strip()
    large = APPLE_LARGE_GB_S.get(model, 0) if gpu_cores >= _LARGE_GPU_CORES else 0
    return (large or APPLE_GB_S.get(model, 0)) * _GB_S


def nvidia_bandwidth_bytes_s(memory_clock_mhz: int, bus_width_bits: int) -> int:
    """Two transfers a clock, as NVML counts clocks: an RTX 4090 says 10501 MHz and 384 bits and
    is sold with 1008 GB/s (the formula is in NVIDIA's CUDA C++ Best Practices Guide, 8.2.1).
    """
    return memory_clock_mhz * 1_000_000 * 2 * bus_width_bits // 8
