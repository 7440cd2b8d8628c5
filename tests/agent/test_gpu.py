"""Graphics processors: a driver's library and sysfs, both made up."""

from types import SimpleNamespace

import pytest

from ollama_herd.agent import gpu as gpu_module
from ollama_herd.agent.gpu import GpuReading, Nvidia, round_down, sysfs_gpus

GIB = 2**30


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class Nvml:
    """NVIDIA's library with these cards; a card is a dict of what it tells."""

    NVMLError = NvmlError
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_MEM = 2

    def __init__(self, *cards: dict) -> None:
        self.cards = cards
        self.has_driver = True
        self.inits = 0

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        self.inits += 1
        if not self.has_driver:
            raise NvmlError(12)  # library not found

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict:  # noqa: N802
        return self.cards[index]

    def __getattr__(self, name: str):
        def ask(card: dict, *_: object) -> object:
            said = card.get(name.removeprefix("nvmlDeviceGet"), 3)  # 3: not supported
            if isinstance(said, int) and name != "nvmlDeviceGetMemoryBusWidth" and said < 20:
                raise NvmlError(said)
            return said

        return ask


RTX_4090 = {
    "Name": "NVIDIA GeForce RTX 4090",
    "MemoryInfo": SimpleNamespace(total=24 * GIB, free=20 * GIB + 5, used=4 * GIB),
    "UtilizationRates": SimpleNamespace(gpu=37, memory=10),
    "Temperature": 61,
    "CurrentClocksThrottleReasons": 0x44,
    "MaxClockInfo": 10501,
    "MemoryBusWidth": 384,
}


def test_a_card_that_tells_everything() -> None:
    reading = Nvidia(Nvml(RTX_4090)).read()
    (gpu,) = reading.gpus
    assert gpu.name == "NVIDIA GeForce RTX 4090"
    assert gpu.vendor == "nvidia"
    assert gpu.memory_total_bytes == 24 * GIB
    assert gpu.memory_free_bytes == 20 * GIB
    assert gpu.utilisation_percent == 37.0
    assert gpu.temperature_c == 61.0
    assert not gpu.unified
    assert reading.is_throttled
    assert reading.bandwidth_bytes_s // 10**9 == 1008


def test_a_card_that_tells_only_its_name() -> None:
    reading = Nvidia(Nvml({"Name": b"NVIDIA GB10"})).read()
    (gpu,) = reading.gpus
    assert gpu.name == "NVIDIA GB10"
    assert gpu.memory_total_bytes == 0
    assert gpu.utilisation_percent is None
    assert gpu.unified
    assert not reading.is_throttled
    assert reading.bandwidth_bytes_s == 0


def test_the_fastest_memory_counts() -> None:
    slow = RTX_4090 | {"MaxClockInfo": 5001, "MemoryBusWidth": 128}
    reading = Nvidia(Nvml(slow, RTX_4090)).read()
    assert len(reading.gpus) == 2
    assert reading.bandwidth_bytes_s // 10**9 == 1008


def test_no_driver_is_normal_and_not_asked_for_all_the_time() -> None:
    nvml = Nvml(RTX_4090)
    nvml.has_driver = False
    nvidia = Nvidia(nvml)
    for _ in range(3):
        assert nvidia.read() == GpuReading()
    assert nvml.inits == 1


def test_this_machine_is_read_without_an_error() -> None:
    assert isinstance(Nvidia().read(), GpuReading)


def test_a_driver_that_comes_back_is_used_again(monkeypatch) -> None:
    monkeypatch.setattr(gpu_module, "TRY_AGAIN_S", 0.0)
    nvml = Nvml(RTX_4090 | {"MemoryInfo": 15})  # the card is lost
    nvidia = Nvidia(nvml)
    assert nvidia.read() == GpuReading()
    nvml.cards = (RTX_4090,)
    assert len(nvidia.read().gpus) == 1


def card(root, name: str, **files: str) -> None:
    device = root / "sys/class/drm" / name / "device"
    device.mkdir(parents=True)
    for path, content in files.items():
        place = device / path.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content + "\n")


def test_cards_in_sysfs(tmp_path) -> None:
    card(
        tmp_path, "card1", vendor="0x1002", device="0x744c",
        mem_info_vram_total=str(24 * GIB), mem_info_vram_used=str(GIB), gpu_busy_percent="42",
        hwmon__hwmon3__temp1_input="55600",
    )  # fmt: skip
    card(tmp_path, "card0", vendor="0x8086", device="0x46a6")  # a processor's own graphics
    card(tmp_path, "card2", vendor="0x1002", mem_info_vram_total=str(GIB // 2))
    card(tmp_path, "card3", vendor="0x10de")
    (tmp_path / "sys/class/drm/card1-DP-1/device").mkdir(parents=True)
    (gpu,) = sysfs_gpus(tmp_path)
    assert gpu.name == "AMD GPU 0x744c"
    assert gpu.vendor == "amd"
    assert gpu.memory_total_bytes == 24 * GIB
    assert gpu.memory_free_bytes == 23 * GIB
    assert gpu.utilisation_percent == 42.0
    assert gpu.temperature_c == 56.0


def test_an_intel_card_that_tells_of_memory(tmp_path) -> None:
    card(tmp_path, "card0", vendor="0x8086", product_name="Intel Arc A770")
    (tmp_path / "sys/class/drm/card0/lmem_total_bytes").write_text(str(16 * GIB))
    (tmp_path / "sys/class/drm/card0/lmem_avail_bytes").write_text(str(15 * GIB))
    (gpu,) = sysfs_gpus(tmp_path)
    assert gpu.name == "Intel Arc A770"
    assert gpu.memory_free_bytes == 15 * GIB


def test_no_cards(tmp_path) -> None:
    assert sysfs_gpus(tmp_path) == ()


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (2**20 - 1, 0), (2**20 + 1, 2**20)])
def test_whole_mib(count: int, expected: int) -> None:
    assert round_down(count) == expected
