"""Parts of the demo against real sockets and processes: which model, one chat, no orphans."""

import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement
from rich.console import Console

from ollama_herd.cli import demo as command
from ollama_herd.demo import chat, engine, local_ollama
from ollama_herd.demo.children import Child, end_all
from ollama_herd.demo.fleet import DemoFleet, free_port
from ollama_herd.demo.loopback import get_json
from tests.e2e.processes import wait_until
from tests.fakes.models import embedding_model, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Fault

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeOllama) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{fake.port}")


def test_the_smallest_model_that_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    big = model("big", size_bytes=9_000_000)
    small = model("small", size_bytes=5_000_000, capabilities=("completion", "thinking"))
    tiny = embedding_model("embed", size_bytes=1)
    with FakeOllama([big, tiny, small]).in_thread() as fake:
        use(monkeypatch, fake)
        assert local_ollama.find() == (fake.url, "small:latest", True)
        chat.ask(fake.url, chat.request_body("big:latest"), print)
        assert local_ollama.find() == (fake.url, "big:latest", False)  # loaded now


def test_an_ollama_without_a_chat_model_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOllama([embedding_model("embed")]).in_thread() as fake:
        use(monkeypatch, fake)
        assert local_ollama.find() is None


def test_no_ollama_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert local_ollama.find() is None


def test_something_else_that_listens_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.getsockname()[1]}")
        assert local_ollama.find() is None


def test_an_answer_is_shown_as_it_comes() -> None:
    pieces: list[str] = []
    with FakeOllama([model("m")]).in_thread() as fake:
        answer = chat.ask(fake.url, chat.request_body("m"), pieces.append)
    assert len(pieces) == answer.tokens == fake.counters.tokens > 1
    assert answer.tokens_per_s > 0
    assert answer.ttft_s >= 0


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault.ERROR_500, "."),
        (Fault.CLOSE, "broke off"),
        (Fault.GARBAGE, "broke off"),
        (Fault.CUT_MID_STREAM, "broke off|without its end marker"),
        (Fault.CLEAN_END, "without its end marker"),
        (Fault.ERROR_MID_STREAM, "unexpected EOF"),
    ],
)
def test_an_answer_that_fails_says_why(fault: Fault, text: str) -> None:
    with FakeOllama([model("m")]).in_thread() as fake:
        fake.fail_next(fault)
        with pytest.raises(chat.ChatError, match=text):
            chat.ask(fake.url, chat.request_body("m"), print)


def test_an_unknown_model_says_so() -> None:
    with (
        FakeOllama([model("m")]).in_thread() as fake,
        pytest.raises(chat.ChatError, match="model 'x' not found"),
    ):
        chat.ask(fake.url, chat.request_body("x"), print)


def test_a_busy_port_is_left_to_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        other = free_port(port)
        assert other not in (0, port)
    assert free_port(other) == other


def test_a_port_taken_at_the_last_moment_is_left_to_its_owner(tmp_path: Path) -> None:
    """Two demos at once find it free: the slower must not take the other's herd for its own."""
    with FakeOllama([model("m")]).in_thread() as fake, DemoFleet(tmp_path, 0) as first:
        first.start_router()
        first.wait_for_router()
        (tmp_path / "second").mkdir()
        with DemoFleet(tmp_path / "second", 0) as second:
            second.port = first.port
            second.start_router()
            second.wait_for_router()
            assert second.port != first.port
            second.start_node("node-a", fake.url)
            second.wait_for("m:latest")
            assert get_json(f"{first.url}/fleet/status")["nodes"] == []


PARENT = """
import subprocess, sys, time
command = [sys.executable, "-c", sys.argv[1]]
child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""
SLEEPER = "import time; from ollama_herd.demo import lifeline; lifeline.hold(); time.sleep(60)"


def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
            SLEEPER,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([child], timeout=10)[1] == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_child_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_herd.demo.children._END_S", 0.2)
    child = Child("stuck", "herd", ["--port", "0"], tmp_path / "log")
    os.kill(child.pid, signal.SIGSTOP)
    assert not child.has_ended
    end_all([child])
    assert child.has_ended


def test_an_engine_that_lacks_a_library_says_which_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge: a package whose library does not load, as on slim systems without OpenMP."""
    missing = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({missing!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ["--model", "m.gguf", "--alias", "m", "--url-file", str(tmp_path / "url")]
    child = Child("engine", "engine", arguments, tmp_path / "log")
    try:
        wait_until(lambda: child.has_ended, 30, "the engine to give up")
    finally:
        end_all([child])
    (said,) = child.last_words().splitlines()
    assert missing in said
    assert "apt install libgomp1" in said


def test_the_extra_asks_for_the_engine_where_it_has_wheels():
    """What `has_wheel` says is what pip does by the marker in pyproject.toml."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    (asked,) = map(Requirement, project["optional-dependencies"]["demo"])
    assert asked.marker is not None
    for system, machine in itertools.product(
        ("linux", "darwin", "win32", "freebsd14"),
        ("x86_64", "aarch64", "arm64", "AMD64", "ARM64", "riscv64", "armv7l", "i686"),
    ):
        if system == "darwin" and machine not in ("x86_64", "arm64"):
            continue  # there is no such machine
        around = {"sys_platform": system, "platform_machine": machine}
        assert asked.marker.evaluate(around) is engine.has_wheel(system, machine), around


@pytest.mark.parametrize(
    ("machine", "words"),
    [("riscv64", "has no wheel for linux on riscv64"), ("x86_64", "pip install '.[demo]'")],
)
def test_without_the_engine_it_says_what_to_do(machine, words, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(engine, "MODULE", "no_such_module")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(command, "machine", lambda: machine)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    with pytest.raises(SystemExit):
        command._plan(Console(file=io.StringIO()), tmp_path, may_download=False, is_local_used=True)
    assert words in capsys.readouterr().err
