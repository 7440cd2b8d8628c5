"""Services are made with the system's own tools; here those are stand-ins that note each call."""

import json
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_herd.services.job import Job, ServiceError
from ollama_herd.services.launchd import Launchd
from ollama_herd.services.systemd import Systemd, unit
from ollama_herd.services.windows import TaskScheduler

JOB = Job("herd", "Ollama Herd, the router", ("/opt/my herd/bin/herd", "--home", "/srv/50%$HOME"))

Calls = Callable[[], list[str]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins for the three systems' tools; answers come from files beside them."""
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "calls"
    log.touch()
    for name in ("systemctl", "launchctl", "schtasks"):
        script = f'#!/bin/sh\necho "{name} $*" >> {log}\n[ -f {tools}/fails ] && '
        script += f"{{ echo no such luck >&2; exit 5; }}\ncat {tools}/says 2>/dev/null || true\n"
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return lambda: log.read_text().splitlines()


def test_a_users_unit(tmp_path: Path, calls: Calls) -> None:
    services = Systemd(uid=1000, units=tmp_path / "units")
    hints = services.install(JOB)
    path = tmp_path / "units" / "ollama-herd.service"
    assert calls() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable ollama-herd.service",
        "systemctl --user restart ollama-herd.service",
    ]
    assert any("enable-linger" in hint for hint in hints)
    assert services.state("herd").installed
    assert services.state("herd").running
    assert "User=" not in path.read_text()
    assert 'ExecStart="/opt/my herd/bin/herd" "--home" "/srv/50%%$$HOME"' in path.read_text()
    services.uninstall("herd")
    assert not path.exists()
    assert "systemctl --user disable --now ollama-herd.service" in calls()
    with pytest.raises(ServiceError, match="no such service"):
        services.uninstall("herd")


def test_a_unit_of_the_system_names_its_user(tmp_path: Path, calls: Calls) -> None:
    Systemd("ada", uid=0, units=tmp_path).install(JOB)
    text = (tmp_path / "ollama-herd.service").read_text()
    assert "\nUser=ada\n" in text
    assert "WantedBy=multi-user.target" in text
    assert all("--user" not in call for call in calls())


def test_never_as_root_without_being_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="--run-as"):
        Systemd(uid=0, units=tmp_path)
    with pytest.raises(ServiceError, match="sudo"):
        Systemd("ada", uid=1000, units=tmp_path)
    with pytest.raises(ServiceError, match="without sudo"):
        Launchd(0)


def test_a_line_break_cannot_smuggle_a_setting() -> None:
    job = Job("herd", "x", ("/bin/herd", "--home", "/x\nUser=root"))
    with pytest.raises(ServiceError, match="line break"):
        unit(job, None)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    job = Job("herd", "Ollama Herd", ("/bin/true", "--home", str(tmp_path / "a b %h $x")))
    path = tmp_path / "ollama-herd.service"
    path.write_text(unit(job, None))
    read = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ollama-herd.service" not in read.stderr, read.stderr


def test_a_launch_agent(tmp_path: Path, calls: Calls) -> None:
    services = Launchd(501, tmp_path / "agents", tmp_path / "logs")
    services.install(JOB)
    path = tmp_path / "agents" / "ollama-herd.herd.plist"
    told = plistlib.loads(path.read_bytes())
    assert told["ProgramArguments"] == list(JOB.command)
    assert told["KeepAlive"] is True
    assert calls()[-1] == f"launchctl bootstrap gui/501 {path}"
    assert not services.state("herd").running
    (tmp_path / "tools" / "says").write_text("\tstate = running\n")
    assert services.state("herd").running
    services.uninstall("herd")
    assert not path.exists()


def test_a_scheduled_task(tmp_path: Path, calls: Calls) -> None:
    services = TaskScheduler()
    services.install(JOB)
    assert calls()[0].startswith("schtasks /Create /F /SC ONLOGON /RL LIMITED /TN ollama-herd /TR")
    assert calls()[1] == "schtasks /Run /TN ollama-herd"
    (tmp_path / "tools" / "says").write_text("Status: Running\n")
    assert services.state("herd").running
    services.uninstall("herd")
    assert calls()[-1] == "schtasks /Delete /F /TN ollama-herd"


def test_what_the_tool_says_is_told(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "tools" / "fails").touch()
    with pytest.raises(ServiceError, match="daemon-reload: no such luck"):
        Systemd(uid=1000, units=tmp_path / "units").install(JOB)
    assert calls()
    assert not Systemd(uid=1000, units=tmp_path / "units").state("herd").running


@pytest.mark.usefixtures("calls")
@pytest.mark.skipif(sys.platform != "linux", reason="the command asks this system's services")
def test_the_command_tells_the_state(tmp_path: Path) -> None:
    (tmp_path / "tools" / "fails").touch()
    herd = Path(sys.executable).parent / "herd-node"
    run_as = ["--run-as", "nobody"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [str(herd), "service", "status", "--json", *run_as],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["running"] is False
