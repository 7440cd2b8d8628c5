"""What only macOS or Windows run, run here: nothing is made up but the edge of the platform.

A module whose code differs by platform is loaded anew, as that platform would load it.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Self

import pytest

from ollama_herd import homelock
from ollama_herd.agent import collect, descriptors, engine_limits, os_linux, os_windows
from ollama_herd.agent.os_darwin import MacOs
from ollama_herd.agent.os_linux import Linux
from ollama_herd.agent.os_windows import Windows
from ollama_herd.cli import machine, process, service
from ollama_herd.config import RouterSettings, load
from ollama_herd.demo import children, fleet
from ollama_herd.services.job import ServiceError
from ollama_herd.services.launchd import Launchd
from ollama_herd.services.systemd import Systemd
from ollama_herd.services.windows import TaskScheduler

PLATFORMS = ("linux", "darwin", "win32")


@pytest.fixture
def patched() -> Iterator[pytest.MonkeyPatch]:
    """Undone before pytest itself looks at the platform again."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def loaded_as(
    platform: str, module: ModuleType, patch: pytest.MonkeyPatch, **edge: object
) -> ModuleType:
    """`module` as `platform` loads it; `edge` are modules that only it has."""
    patch.setattr(sys, "platform", platform)
    for name, made_up in edge.items():
        patch.setitem(sys.modules, name, made_up)
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    return anew


class Msvcrt:
    """Windows' locks: of a range of bytes from where the descriptor stands, mandatory."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], int] = {}

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        place = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        if place in self.held:
            raise PermissionError(13, "Permission denied")
        self.held[place] = descriptor


def test_windows_locks_a_byte_that_nobody_reads(
    tmp_path: Path, patched: pytest.MonkeyPatch
) -> None:
    windows = Msvcrt()
    locks = loaded_as("win32", homelock, patched, msvcrt=windows)
    path = tmp_path / "lock"
    with locks.HomeLock(path):
        assert path.read_text() == f"{os.getpid()}\n"
        ((_, at),) = windows.held
        assert at > 10**6  # far behind the text, which stays readable
        with pytest.raises(locks.HomeInUseError) as caught, locks.HomeLock(path):
            pass
        assert caught.value.pid == os.getpid()


class Winreg:
    """The registry with these processors."""

    HKEY_LOCAL_MACHINE = 1

    def __init__(self, **values: str) -> None:
        self._values = values

    def OpenKey(self, root: int, path: str) -> "Winreg":  # noqa: N802 - the library's name
        assert (root, path) == (1, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0")
        if not self._values:
            raise FileNotFoundError(2, "not found")
        return self

    def QueryValueEx(self, key: "Winreg", name: str) -> tuple[str, int]:  # noqa: N802
        return key._values[name], 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_windows_names_its_processor(patched: pytest.MonkeyPatch) -> None:
    registry = Winreg(ProcessorNameString="AMD Ryzen(TM) 9 7950X 16-Core Processor   ")
    system = loaded_as("win32", os_windows, patched, winreg=registry).Windows()
    assert system.chip() == "AMD Ryzen 9 7950X 16-Core Processor"


def test_a_windows_that_does_not_tell(patched: pytest.MonkeyPatch) -> None:
    system = loaded_as("win32", os_windows, patched, winreg=Winreg()).Windows()
    assert (system.chip(), system.temperature_c(), system.gpus()) == ("", None, ())


def test_sensors_are_read_on_linux_only(patched: pytest.MonkeyPatch) -> None:
    assert loaded_as("freebsd14", os_linux, patched).Linux().temperature_c() is None


def test_windows_has_no_limit_of_files(patched: pytest.MonkeyPatch) -> None:
    patched.setitem(sys.modules, "resource", None)  # importing it would fail
    loaded_as("win32", descriptors, patched).allow_many()


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [((256, -1), (16384, -1)), ((256, 4096), (4096, 4096)), ((20000, -1), None), ((-1, -1), None)],
)
def test_macos_lets_a_program_raise_its_limit(
    patched: pytest.MonkeyPatch, limits: tuple[int, int], wanted: tuple[int, int] | None
) -> None:
    asked = []
    resource = SimpleNamespace(
        RLIMIT_NOFILE=8,
        RLIM_INFINITY=-1,
        getrlimit=lambda _: limits,
        setrlimit=lambda _, limit: asked.append(limit),
    )
    loaded_as("darwin", descriptors, patched, resource=resource).allow_many()
    assert asked == ([wanted] if wanted else [])


def test_a_limit_that_macos_refuses_is_left(patched: pytest.MonkeyPatch) -> None:
    def refuse(_kind: int, _limit: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    resource = SimpleNamespace(
        RLIMIT_NOFILE=8, RLIM_INFINITY=-1, getrlimit=lambda _: (256, -1), setrlimit=refuse
    )
    loaded_as("darwin", descriptors, patched, resource=resource).allow_many()


def test_each_system_is_read_in_its_own_way(patched: pytest.MonkeyPatch) -> None:
    kinds = {"linux": Linux, "darwin": MacOs, "win32": Windows, "freebsd14": Windows}
    for platform, kind in kinds.items():
        patched.setattr(sys, "platform", platform)
        assert type(collect.this_system()) is kind


def test_a_graphics_processor_that_takes_a_command_is_asked_rarely(
    patched: pytest.MonkeyPatch,
) -> None:
    mac = loaded_as("darwin", collect, patched).GPU_EVERY_S
    assert mac > loaded_as("win32", collect, patched).GPU_EVERY_S


def test_windows_has_no_load_average(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(sys, "platform", "win32")
    assert collect.read_machine(Windows(), collect.CpuMeter()).load_1m is None


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_mac_tells_what_launchctl_was_told(tmp_path: Path, patched: pytest.MonkeyPatch) -> None:
    script = '#!/bin/sh\n[ "$1 $2" = "getenv OLLAMA_NUM_PARALLEL" ] && echo 6\nexit 0\n'
    (tmp_path / "launchctl").write_text(script)
    (tmp_path / "launchctl").chmod(0o755)
    patched.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    patched.setattr(engine_limits, "find_process", lambda _port: None)
    patched.setattr(sys, "platform", "darwin")
    assert engine_limits.read_limits(1, {}).slots == 6
    patched.setattr(sys, "platform", "win32")
    assert engine_limits.read_limits(1, {"OLLAMA_NUM_PARALLEL": "3"}).slots == 3


@pytest.mark.parametrize(
    ("platform", "kind"), [("linux", Systemd), ("darwin", Launchd), ("win32", TaskScheduler)]
)
def test_each_system_keeps_services_its_own_way(
    patched: pytest.MonkeyPatch, platform: str, kind: type
) -> None:
    patched.setattr(sys, "platform", platform)
    patched.setattr(os, "getuid", lambda: 501, raising=False)
    patched.setattr(os, "geteuid", lambda: 501, raising=False)
    assert type(service.services_here(None)) is kind
    if platform != "linux":
        with pytest.raises(ServiceError, match="--run-as is for Linux"):
            service.services_here("ada")


def test_programs_of_windows_end_in_exe(tmp_path: Path, patched: pytest.MonkeyPatch) -> None:
    for name in ("herd", "herd.exe"):
        (tmp_path / name).touch()
    patched.setattr(sys, "executable", str(tmp_path / "python"))
    for platform, name in (("win32", "herd.exe"), ("darwin", "herd"), ("linux", "herd")):
        patched.setattr(sys, "platform", platform)
        assert service.program("herd") == str(tmp_path / name)
        with pytest.raises(ServiceError, match="does not exist"):
            service.program("herd-node")


def test_firewalls(tmp_path: Path, patched: pytest.MonkeyPatch) -> None:
    ufw, firewalld = tmp_path / "ufw.conf", tmp_path / "firewalld"
    patched.setattr(machine, "UFW", ufw)
    patched.setattr(machine, "FIREWALLD", firewalld)

    def seen(platform: str) -> str:
        patched.setattr(sys, "platform", platform)
        (finding,) = machine.firewall_findings("port 1")
        return finding.seen if finding.code == "firewall-active" else ""

    assert [seen(platform) for platform in PLATFORMS] == ["", "", ""]
    firewalld.mkdir()
    assert seen("linux").startswith("firewalld ")
    ufw.write_text("# comment\nENABLED=yes\n")
    assert seen("linux").startswith("ufw ")
    assert seen("darwin") == seen("win32") == ""  # they ask by themselves


def test_ctrl_break_ends_it_on_windows(patched: pytest.MonkeyPatch) -> None:
    taken = {}
    patched.setattr(signal, "signal", taken.__setitem__)
    patched.setattr(signal, "SIGBREAK", 21, raising=False)
    for platform, numbers in (("linux", set()), ("win32", {21})):
        taken.clear()
        patched.setattr(sys, "platform", platform)
        process._take_signals(print)
        assert set(taken) == {signal.SIGINT, signal.SIGTERM} | numbers


def test_without_uvloop_the_loop_is_pythons(patched: pytest.MonkeyPatch) -> None:
    patched.setitem(sys.modules, "uvloop", None)
    assert process._loop_factory() is None
    done = []

    async def work() -> None:
        done.append(True)

    patched.setattr(process, "_take_signals", lambda _stop: None)
    process.run(work, shutdown_s=1.0)
    assert done


def test_children_have_a_group_of_their_own(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    patched.setattr(sys, "platform", "win32")
    assert children._own_group() == {"creationflags": 512}
    patched.setattr(sys, "platform", "darwin")
    assert children._own_group() == {"start_new_session": True}


def test_a_child_is_killed_where_groups_get_no_signals(
    tmp_path: Path, patched: pytest.MonkeyPatch
) -> None:
    child = children.Child("x", "no-such-role", [], tmp_path / "log")
    patched.setattr(sys, "platform", "win32")
    patched.delattr(os, "killpg", raising=False)
    child.kill()
    assert child.has_ended
    child.release()


def test_a_port_is_free_where_addresses_are_not_shared(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(os, "name", "nt")
    assert fleet.free_port(0) > 0


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_file_of_settings_as_windows_editors_write_it(
    tmp_path: Path, patched: pytest.MonkeyPatch, start: str, end: str
) -> None:
    text = f"{start}# ours{end}port = 4711{end}"
    (tmp_path / "herd.toml").write_bytes(text.encode())
    patched.setenv("HERD_HOME", str(tmp_path))
    assert load(RouterSettings, {}).settings.port == 4711
