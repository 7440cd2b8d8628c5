"""Reading this machine, and what Linux, macOS and Windows say in their own words."""

import sys
import threading

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.agent import collect as collect_module
from ollama_herd.agent import os_darwin, os_linux, os_windows
from ollama_herd.agent.bandwidth import (
    APPLE_GB_S,
    APPLE_LARGE_GB_S,
    apple_bandwidth_bytes_s,
    nvidia_bandwidth_bytes_s,
)
from ollama_herd.agent.collect import Collector, Source, models_folder, read_disk
from ollama_herd.agent.cpu import CpuMeter, is_engine, shares_percent, spent_s
from ollama_herd.agent.os_darwin import MacOs
from ollama_herd.agent.os_linux import Linux, Sensor
from ollama_herd.core.node import Pressure
from tests.agent.fake_engine import until

GB = 10**9

# --- Linux -------------------------------------------------------------------------------

PSI = (
    "some avg10={some} avg60=1.00 avg300=0.10 total=123\n"
    "full avg10={full} avg60=0.50 avg300=0.05 total=45\n"
)


@pytest.mark.parametrize(
    ("available", "some", "full", "expected"),
    [
        (0.5, "0.00", "0.00", Pressure.NORMAL),
        (0.16, "9.99", "9.99", Pressure.NORMAL),
        (0.14, "0.00", "0.00", Pressure.WARN),
        (0.5, "12.50", "1.00", Pressure.WARN),
        (0.04, "0.00", "0.00", Pressure.CRITICAL),
        (0.5, "40.00", "25.10", Pressure.CRITICAL),
    ],
)
def test_linux_pressure(available: float, some: str, full: str, expected: Pressure) -> None:
    psi = PSI.format(some=some, full=full)
    assert os_linux.pressure(1000, int(available * 1000), psi) is expected


def test_linux_without_psi() -> None:
    assert os_linux.pressure(1000, 500, "") is Pressure.NORMAL
    assert os_linux.pressure(0, 0, "") is Pressure.NORMAL


@given(st.text(max_size=80), st.integers(0, 100), st.integers(0, 100))
def test_less_memory_is_never_less_pressure(psi: str, one: int, other: int) -> None:
    order = list(Pressure)
    less, more = sorted((one, other))
    assert order.index(os_linux.pressure(100, less, psi)) >= order.index(
        os_linux.pressure(100, more, psi)
    )


CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R)  CPU @ 2.20GHz
cpu MHz\t\t: 2200.000
"""


def test_a_linux_machine(tmp_path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal: 100 kB\nSwapTotal:      2000 kB\nSwapFree:       1500 kB\n"
    )
    (tmp_path / "proc/pressure/memory").write_text(PSI.format(some="11.0", full="0.0"))
    core = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle"
    core.mkdir(parents=True)
    (core / "core_throttle_count").write_text("3\n")
    system = Linux(tmp_path)
    assert system.chip() == "Intel(R) Xeon(R) CPU @ 2.20GHz"
    assert system.swap_used_bytes() == 500 * 1024
    assert system.pressure(100, 90) is Pressure.WARN
    assert not system.is_throttled()
    (core / "core_throttle_count").write_text("4\n")
    assert system.is_throttled()
    assert not system.is_throttled()
    assert system.gpus() == ()


def test_a_raspberry_pi_says_its_board(tmp_path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 108.00\n")
    (tmp_path / "proc/device-tree/model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert Linux(tmp_path).chip() == "Raspberry Pi 5 Model B Rev 1.0"


def test_a_linux_that_tells_nothing(tmp_path) -> None:
    system = Linux(tmp_path)
    assert system.chip() == ""
    assert system.swap_used_bytes() == 0
    assert system.pressure(100, 90) is Pressure.NORMAL
    assert not system.is_throttled()


def test_only_processor_sensors_count() -> None:
    sensors = {
        "nvme": [Sensor("Composite", 80.0)],
        "coretemp": [Sensor("Core 0", 51.0), Sensor("Core 1", 55.0), Sensor("", 0.0)],
        "acpitz": [Sensor("", 16.8)],
    }
    assert os_linux.cpu_temperature(sensors) == 55.0
    assert os_linux.cpu_temperature({"nvme": [Sensor("", 40.0)]}) is None
    assert os_linux.cpu_temperature({}) is None


# --- macOS -------------------------------------------------------------------------------

IOREG = """+-o AGXAcceleratorG14X  <class AGXAcceleratorG14X, id 0x1000008e0, registered, matched>
    {
      "gpu-core-count" = 40
      "PerformanceStatistics" = {"In use system memory"=913747968,"Tiler Utilization %"=3,\
"Renderer Utilization %"=11,"Device Utilization %"=12,"SplitSceneCount"=0}
      "model" = "Apple M4 Max"
    }
"""
PMSET_FINE = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
PMSET_SLOW = """2026-02-01 10:00:00 +0100 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= 62
"""


def a_mac(**said: str) -> MacOs:
    """A Mac whose commands print what is given by their last word."""
    return MacOs(lambda command: said.get(command[-1].replace(".", "_"), ""))


def test_an_apple_silicon_mac() -> None:
    mac = a_mac(
        machdep_cpu_brand_string="Apple M4 Max\n",
        IOAccelerator=IOREG,
        iogpu_wired_limit_mb="0\n",
        kern_memorystatus_vm_pressure_level="2\n",
    )
    assert mac.chip() == "Apple M4 Max"
    assert mac.bandwidth_bytes_s() == 546 * GB
    assert mac.pressure(1, 1) is Pressure.WARN
    (gpu,) = mac.gpus()
    assert gpu.name == "Apple M4 Max"
    assert gpu.vendor == "apple"
    assert gpu.unified
    assert gpu.utilisation_percent == 12.0
    assert gpu.memory_total_bytes == psutil.virtual_memory().total


def test_an_intel_mac_has_no_gpu_for_models() -> None:
    mac = a_mac(machdep_cpu_brand_string="Intel(R) Core(TM) i7-8850H CPU @ 2.60GHz")
    assert mac.gpus() == ()
    assert mac.bandwidth_bytes_s() == 0


def test_what_the_owner_lets_the_gpu_have() -> None:
    gpu = os_darwin.apple_gpu("Apple M2", 16 * 2**30, 12 * 2**30, "10240\n", "")
    assert gpu.memory_total_bytes == 10 * 2**30
    assert gpu.memory_free_bytes == 10 * 2**30
    assert gpu.utilisation_percent is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n", Pressure.NORMAL),
        ("2", Pressure.WARN),
        ("4", Pressure.CRITICAL),
        ("", Pressure.NORMAL),
    ],
)
def test_macos_pressure(text: str, expected: Pressure) -> None:
    assert os_darwin.parse_pressure(text) is expected


@pytest.mark.parametrize(
    ("notified", "pmset", "throttled"),
    [
        ("com.apple.system.thermalpressurelevel 0\n", PMSET_FINE, False),
        ("com.apple.system.thermalpressurelevel 1\n", PMSET_FINE, False),
        ("com.apple.system.thermalpressurelevel 2\n", PMSET_FINE, True),
        ("com.apple.system.thermalpressurelevel 0\n", PMSET_SLOW, True),
        ("", "", False),
    ],
)
def test_macos_heat(notified: str, pmset: str, throttled: bool) -> None:  # noqa: FBT001
    assert os_darwin.parse_thermal(notified, pmset) is throttled


def test_a_command_that_is_not_there_prints_nothing() -> None:
    assert os_darwin.output(["no-such-command-at-all"]) == ""
    assert os_darwin.output([sys.executable, "-c", "raise SystemExit(1)"]) == ""
    assert os_darwin.output([sys.executable, "-c", "print('x')"]).strip() == "x"


# --- Windows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "expected"),
    [(50, Pressure.NORMAL), (16, Pressure.NORMAL), (15, Pressure.WARN), (5, Pressure.CRITICAL)],
)
def test_windows_pressure(available: int, expected: Pressure) -> None:
    assert os_windows.Windows().pressure(100, available) is expected


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("Intel(R) Core(TM) i9-14900K", "Intel Core i9-14900K"),
        ("AMD Ryzen 9 7950X 16-Core Processor            ", "AMD Ryzen 9 7950X 16-Core Processor"),
        ("", ""),
    ],
)
def test_windows_chips(name: str, clean: str) -> None:
    assert os_windows.clean_chip(name) == clean


# --- bandwidth ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chip", "cores", "gb_s"),
    [
        ("Apple M1", 8, 68),
        ("Apple M3 Max", 30, 300),
        ("Apple M3 Max", 40, 400),
        ("Apple M4 Max", 0, 410),
        ("Apple M5 Max", 40, 614),
        ("Apple M2 Ultra", 76, 800),
        ("Apple M99", 40, 0),
        ("Intel Core i7", 0, 0),
        ("", 0, 0),
    ],
)
def test_apple_bandwidths(chip: str, cores: int, gb_s: int) -> None:
    assert apple_bandwidth_bytes_s(chip, cores) == gb_s * GB


def test_larger_variants_are_faster() -> None:
    assert all(fast > APPLE_GB_S[chip] > 0 for chip, fast in APPLE_LARGE_GB_S.items())


@pytest.mark.parametrize(
    ("card", "clock_mhz", "width_bits", "gb_s"),
    [
        ("RTX 3090", 9751, 384, 936),
        ("RTX 4090", 10501, 384, 1008),
        ("A100 40 GB", 1215, 5120, 1555),
        ("unknown", 0, 0, 0),
    ],
)
def test_nvidia_bandwidths(card: str, clock_mhz: int, width_bits: int, gb_s: int) -> None:
    assert nvidia_bandwidth_bytes_s(clock_mhz, width_bits) // GB == gb_s


# --- processors --------------------------------------------------------------------------


@given(st.floats(0, 100), st.floats(0, 100), st.none() | st.floats(0, 100))
def test_shares_are_percentages(busy_s: float, passed_s: float, ours_s: float | None) -> None:
    busy, foreign = shares_percent(busy_s, passed_s, ours_s)
    assert 0 <= busy <= 100
    assert (foreign is None) == (ours_s is None)
    assert foreign is None or 0 <= foreign <= busy + 1


def test_shares() -> None:
    assert shares_percent(6.0, 10.0, 2.0) == (60.0, 40.0)
    assert shares_percent(6.0, 10.0, None) == (60.0, None)
    assert shares_percent(1.0, 0.0, 1.0) == (0.0, 0.0)


def test_a_process_counts_from_when_it_is_known() -> None:
    assert spent_s({1: 5.0, 2: 1.0}, {1: 7.0, 3: 100.0}) == 2.0
    assert spent_s({1: 5.0}, {1: 1.0}) == 0.0  # another process got the number


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        ("ollama", [], True),
        ("ollama.exe", [], True),
        ("llama-server", [], True),
        ("python3.12", ["python3", "-m", "vllm.entrypoints.openai.api_server"], True),
        ("python3", ["/usr/bin/python3", "/home/x/.local/bin/herd-node"], True),
        ("python3", ["python3", "train.py"], False),
        ("python3", ["python3", "/home/shepherd/herding.py"], False),
        ("herd-node.exe", [], True),
        ("firefox", [], False),
    ],
)
def test_engine_processes(name: str, command: list[str], expected: bool) -> None:  # noqa: FBT001
    assert is_engine(name, command) is expected


def test_a_busy_program_that_is_no_engine_is_foreign() -> None:
    meter = CpuMeter()
    done = threading.Event()
    count = 0
    busy, foreign = meter.read()
    deadline = threading.Timer(0.5, done.set)
    deadline.start()
    while not done.is_set():
        count += 1
    busy, foreign = meter.read()
    assert busy >= 10
    assert foreign is None or foreign >= 10  # this test runs in no process of the herd


# --- sources -----------------------------------------------------------------------------


async def test_a_reading_is_repeated_and_never_doubled(monkeypatch) -> None:
    reads = 0

    def read() -> int:
        nonlocal reads
        reads += 1
        return reads

    source = Source("counter", read, 0, every_s=0.05)
    source.refresh()
    source.refresh()
    await source.first()
    await until(lambda: source.latest == 1)
    source.refresh()
    assert reads == 1  # not due yet

    def refreshed() -> bool:
        source.refresh()
        return source.latest >= 3

    await until(refreshed)


async def test_a_reading_that_hangs_leaves_the_last_value() -> None:
    free = threading.Event()
    started = 0

    def read() -> str:
        nonlocal started
        started += 1
        if started == 2:
            free.wait()
        return f"value {started}"

    source = Source("disk", read, "none", every_s=0.0)
    source.refresh()
    await until(lambda: source.latest == "value 1")
    for _ in range(5):
        source.refresh()
    await until(lambda: started == 2)
    assert source.latest == "value 1"
    free.set()
    await until(lambda: source.latest == "value 2")


async def test_a_reading_that_fails_leaves_the_last_value() -> None:
    values = iter(["first"])
    source = Source("disk", lambda: next(values), "none", every_s=0.0)
    source.refresh()
    await until(lambda: source.latest == "first")
    source.refresh()
    await source.first()
    assert source.latest == "first"


async def test_this_machine(tmp_path) -> None:
    collector = Collector(tmp_path)
    await collector.first()
    vitals, platform = collector.vitals(), collector.platform()
    assert 0 < vitals.memory_available_bytes <= vitals.memory_total_bytes
    assert vitals.cpu_count == psutil.cpu_count()
    assert 0 < vitals.disk_free_bytes <= vitals.disk_total_bytes
    assert 0 <= vitals.cpu_percent <= 100
    assert platform.system in ("linux", "darwin", "windows")
    assert platform.machine


async def test_the_first_reading_does_not_wait_for_one_that_hangs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(collect_module, "FIRST_READING_S", 0.2)
    free = threading.Event()
    monkeypatch.setattr(collect_module, "read_gpus", lambda *_: free.wait())
    collector = Collector(tmp_path)
    await collector.first()
    assert collector.vitals().memory_total_bytes > 0
    assert collector.vitals().gpus == ()
    free.set()


def test_the_models_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    home = tmp_path / "home"
    assert models_folder(home) in (home, collect_module.SERVICE_MODELS)
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    assert models_folder(home) == tmp_path / ".ollama" / "models"
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("OLLAMA_MODELS", str(elsewhere))
    assert models_folder(home) == tmp_path / ".ollama" / "models"
    elsewhere.mkdir()
    assert models_folder(home) == elsewhere


def test_the_disk(tmp_path) -> None:
    total, free = read_disk(tmp_path)
    assert 0 < free <= total
