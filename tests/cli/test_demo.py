"""`herd demo` as a user runs it: a real answer, and afterwards nothing is left."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ollama_herd.demo import chat, model
from tests.fakes.models import model as fake_model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import call

GGUF = os.environ.get("HERD_TEST_GGUF", "")
NO_OLLAMA = {"OLLAMA_HOST": "127.0.0.1:1"}
DEADLINE_S = 90

real_engine = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="the demo extra is not installed"
    ),
    pytest.mark.skipif(not Path(GGUF).is_file(), reason="HERD_TEST_GGUF names no model file"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that has the model already, so that nothing is downloaded."""
    folder = tmp_path / "home" / "demo"
    folder.mkdir(parents=True)
    if Path(GGUF).is_file():
        try:
            os.link(GGUF, folder / model.GGUF.name)
        except OSError:
            shutil.copy(GGUF, folder / model.GGUF.name)
    return folder.parent


@contextmanager
def demo(home: Path, *arguments: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """The command with its temporary files beside `home`; by these its processes are known."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    env |= {"HERD_HOME": str(home), "HERD_PORT": "0", "TMPDIR": str(home.parent)} | variables
    process = subprocess.Popen(
        [sys.executable, "-m", "ollama_herd.cli.herd", "demo", *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def running(home: Path) -> list[psutil.Process]:
    """Processes that were started with a file of this test."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(home.parent) in word for word in process.info["cmdline"] or ())
    ]


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What it prints up to a line with `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"ended without {text!r}:\n{seen}")


def _answer(printed: str) -> str:
    """What stands between the question and the line that tells who answered."""
    after = printed.split(chat.PROMPT, 1)[1].strip()
    return after.rsplit("\n\n", 1)[0].strip()


class TestWithTheEmbeddedEngine:
    pytestmark = real_engine

    def test_failover(self, home: Path) -> None:
        """The answer goes on after its node was killed, and reads as if nothing had been."""
        with demo(home, "--once", "--yes", **NO_OLLAMA) as process:
            whole = process.communicate(timeout=DEADLINE_S)[0]
        with demo(home, "--once", "--yes", "--failover", **NO_OLLAMA) as process:
            cut = process.communicate(timeout=DEADLINE_S)[0]
        assert process.returncode == 0, cut
        assert re.search(r"the engine of (node-[ab]) was killed; (?!\1)node-[ab] went on", cut)
        assert _answer(cut).replace("||", "", 1) == _answer(whole)
        assert not running(home)

    def test_once(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            port = str(busy.getsockname()[1])
            with demo(home, "--once", "--yes", HERD_PORT=port, **NO_OLLAMA) as process:
                said, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, said
        assert f"Port {port} is in use" in said
        assert "node-a and node-b" in said
        answer = said.partition(chat.PROMPT)[2]
        assert "blue" in answer
        assert re.search(r"node-[ab] answered: first token after .* s, \d+ tokens", answer)
        assert running(home) == []
        assert sorted(item.name for item in home.parent.iterdir()) == ["home"]
        assert [item.name for item in home.iterdir()] == ["demo"]

    def test_it_stays_until_it_is_told_to_end(self, home: Path) -> None:
        with demo(home, "--yes", **NO_OLLAMA) as process:
            said = read_until(process, "Ctrl-C ends the demo")
            url = re.search(r"Ollama API +(http://\S+)", said)
            assert url is not None
            port = int(url[1].rpartition(":")[2])
            pages = re.findall(rf"(?:Dashboard|Fleet status) +{url[1]}(/\S+)", said)
            assert pages == ["/dashboard", "/fleet/status"]
            assert [call(port, "GET", page).status for page in pages] == [200, 200]
            chat.ask(url[1], chat.request_body(model.NAME), print)
            assert len(running(home)) == 5
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=15)
            assert process.returncode == 0
        assert running(home) == []

    def test_nothing_is_left_when_it_is_killed(self, home: Path) -> None:
        with demo(home, "--yes", **NO_OLLAMA) as process:
            read_until(process, "Ctrl-C ends the demo")
            children = running(home)
            assert len(children) == 5
            process.kill()
            process.wait()
        assert psutil.wait_procs(children, timeout=15)[1] == []


def test_a_local_ollama_is_used(home: Path) -> None:
    with (
        FakeOllama([fake_model("m")]).in_thread() as fake,
        demo(home, "--once", OLLAMA_HOST=fake.url) as process,
    ):
        said, _ = process.communicate(timeout=DEADLINE_S)
        assert fake.counters.finished == 1
    assert process.returncode == 0, said
    assert "its model m:latest will answer" in said
    assert "node-a answered" in said
    assert running(home) == []


def test_a_download_is_never_done_without_asking(tmp_path: Path) -> None:
    with demo(tmp_path / "home", "--once", **NO_OLLAMA) as process:
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "--yes" in said
    assert not (tmp_path / "home").exists()
