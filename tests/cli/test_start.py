"""The commands as a user starts them: version, wrong settings, and what is loaded when."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ollama_herd.clock import monotonic_s
from ollama_herd.demo.fleet import free_port
from tests.pace import in_time

COMMANDS = {"herd": "ollama_herd.cli.herd", "herd-node": "ollama_herd.cli.node"}


def start(
    command: str, *arguments: str, home: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    env |= {"HERD_HOME": str(home), "COLUMNS": "200"} | variables
    return subprocess.run(
        [sys.executable, "-m", COMMANDS[command], *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("arguments", [["--version"], ["--log-level", "info", "--version"]])
def test_version(command: str, arguments: list[str], tmp_path: Path) -> None:
    ended = start(command, *arguments, home=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split()[0] == command
    assert ended.stdout.split()[1][0].isdigit()


@pytest.mark.parametrize("command", COMMANDS)
def test_version_loads_next_to_nothing(command: str) -> None:
    """What makes a start slow is what is imported; counted, since time on a busy machine lies."""
    code = (
        f"import sys; before = set(sys.modules); sys.argv = ['x', '--version']\n"
        f"from {COMMANDS[command]} import main; main()\n"
        f"print(*sorted(name.partition('.')[0] for name in set(sys.modules) - before))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert set(ran.stdout.splitlines()[1].split()) == {"ollama_herd"}


def test_help_does_not_load_the_router(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['herd', '--help']\n"
        "from ollama_herd.cli.herd import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*(name for name in ('aiohttp', 'uvloop', 'sqlalchemy') if name in sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout.splitlines()[-1] == ""
    assert "--log-level" in ran.stdout


@pytest.mark.parametrize(
    ("command", "arguments", "variables", "text"),
    [
        ("herd", ["--port", "70000"], {}, "herd: --port = '70000' is not valid: "),
        ("herd", [], {"HERD_PROT": "1"}, "herd: unknown variable HERD_PROT; did you mean "),
        ("herd-node", ["--slots", "0"], {}, "--slots = '0' is not valid: "),
        ("herd-node", ["--engine", "ftp://x"], {}, "--engine = "),
        ("herd-node", [], {"HERD_NODE_SLOTS": "x"}, "HERD_NODE_SLOTS = 'x' is not valid: "),
    ],
)
def test_a_wrong_setting_ends_with_one_line(
    command: str, arguments: list[str], variables: dict[str, str], text: str, tmp_path: Path
) -> None:
    ended = start(command, *arguments, home=tmp_path, **variables)
    assert ended.returncode == 2
    assert text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


def test_a_wrong_file_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "herd.toml").write_text("prot = 1\n")
    ended = start("herd", home=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("herd: unknown setting 'prot' in ")
    assert len(ended.stderr.splitlines()) == 1


def test_an_unknown_option_ends_with_its_name(tmp_path: Path) -> None:
    ended = start("herd", "--prot", "1", home=tmp_path)
    assert ended.returncode == 2
    assert "--prot" in ended.stderr


def test_a_home_that_cannot_be_made_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = start("herd", "--home", str(tmp_path / "file" / "home"), home=tmp_path)
    assert ended.returncode == 1
    assert "cannot be used" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_options_of_the_router_do_not_go_before_a_command(tmp_path: Path) -> None:
    ended = start("herd", "--port", "1", "demo", home=tmp_path)
    assert ended.returncode == 2
    assert "after 'demo'" in ended.stderr


@contextmanager
def herd(home: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """A router that listens; ended with the block."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    command = [sys.executable, "-m", COMMANDS["herd"], "--host", "127.0.0.1", "--no-mdns"]
    process = subprocess.Popen(
        [*command, "--home", str(home), "--port", str(port)],
        env=env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if "herd is listening" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            yield process
        finally:
            process.kill()


def test_a_second_router_says_what_is_in_its_way(tmp_path: Path) -> None:
    port = free_port(0)
    with herd(tmp_path / "one", port) as first:
        same_home = start("herd", "--port", "0", home=tmp_path / "one")
        assert same_home.returncode == 1
        assert f"already running (process {first.pid})" in same_home.stderr
        assert "--home" in same_home.stderr
        assert len(same_home.stderr.splitlines()) == 1

        arguments = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        same_port = start("herd", *arguments, home=tmp_path / "two")
        assert same_port.returncode == 1
        assert f"port {port} is in use by " in same_port.stderr
        assert f"(process {first.pid})" in same_port.stderr
        assert len(same_port.stderr.splitlines()) == 1

        begun_s = monotonic_s()
        first.terminate()
        assert first.wait(timeout=10) == 0
        assert in_time(monotonic_s() - begun_s, 5)


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    arguments = ["--host", "192.0.2.1", "--port", "0", "--no-mdns", "--log-level", "error"]
    ended = start("herd", *arguments, home=tmp_path)
    assert ended.returncode == 1
    assert "cannot listen on 192.0.2.1" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_it_is_loaded_prints_no_traceback(command: str, tmp_path: Path) -> None:
    """Sent from inside an import, the worst of moments; whoever survives it is found waiting."""
    (tmp_path / "typer.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(30)\n"
    )
    ended = start(command, home=tmp_path / "home", PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_a_command_is_130(tmp_path: Path) -> None:
    """Here while it asks an address that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", COMMANDS["herd"], "status", "--router", url],
            env=os.environ | {"HERD_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process, silent.accept()[0] as asked:
            asked.recv(1)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=15)
    assert (process.returncode, "Traceback" in said) == (130, False), said
