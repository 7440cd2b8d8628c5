"""Both programs end within five seconds of a signal, whatever is open; a second ends them now."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_herd import clock
from tests.e2e.processes import Herd, Node, Running, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client
from tests.fakes.state import Settings

PROMISED_S = 5.0
SPARE_S = 1.0
"""For a machine busy with other tests."""

ENDLESS = {"model": "m1", "prompt": "x", "options": {"num_predict": -1}}


@pytest.fixture
def engine() -> Iterator[FakeOllama]:
    with FakeOllama([model("m1")], Settings(token_ms=20), host="127.0.0.2").in_thread() as fake:
        yield fake


@contextlib.contextmanager
def dashboard(port: int) -> Iterator[socket.socket]:
    """One that has got its first event and waits for more."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as subscriber:
        subscriber.sendall(b"GET /dashboard/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        seen = b""
        while b"\ndata: " not in seen:
            seen += subscriber.recv(65536)
        yield subscriber


def ended_in_s(one: Running, number: int) -> float:
    begun_s = clock.monotonic_s()
    one.signal(number)
    assert one.popen.wait(20) == 0, one.log()
    return clock.monotonic_s() - begun_s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_router_with_streams_and_dashboards(
    tmp_path: Path, engine: FakeOllama, number: int
) -> None:
    with contextlib.ExitStack() as stack:
        herd = stack.enter_context(Herd(tmp_path).ready())
        url = f"http://127.0.0.1:{herd.port}"
        stack.enter_context(Node(tmp_path, "n1", url, [engine.url]))
        herd.wait_models("m1:latest")
        for _ in range(3):
            stack.enter_context(dashboard(herd.port))
        stream = stack.enter_context(Client(herd.port))
        stream.ask("POST", "/api/generate", ENDLESS)
        engine.wait_for(lambda c: c.tokens > 3)
        assert ended_in_s(herd, number) < PROMISED_S + SPARE_S
        assert not stream.read().is_whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_with_a_stream_through_its_relay(
    tmp_path: Path, engine: FakeOllama, number: int
) -> None:
    with Herd(tmp_path).ready() as herd:
        with Node(tmp_path, "n1", f"http://127.0.0.1:{herd.port}", [engine.url]) as node:
            herd.wait_models("m1:latest")
            with Client(herd.port) as stream:
                stream.ask("POST", "/api/generate", ENDLESS)
                engine.wait_for(lambda c: c.tokens > 3)
                assert ended_in_s(node, number) < PROMISED_S + SPARE_S
        herd.wait_node("n1", "offline")
        engine.wait_for(lambda c: c.in_flight == 0)


def test_a_second_signal_ends_an_agent_at_once(tmp_path: Path, engine: FakeOllama) -> None:
    with (
        Herd(tmp_path).ready() as herd,
        Node(tmp_path, "n1", f"http://127.0.0.1:{herd.port}", [engine.url]) as node,
        Client(herd.port) as stream,
    ):
        herd.wait_models("m1:latest")
        stream.ask("POST", "/api/generate", ENDLESS)
        engine.wait_for(lambda c: c.tokens > 3)
        os.kill(node.popen.pid, signal.SIGSTOP)  # so that the second comes while it shuts down
        node.signal(signal.SIGTERM)
        node.signal(signal.SIGINT)
        os.kill(node.popen.pid, signal.SIGCONT)
        assert node.popen.wait(10) in {128 + signal.SIGTERM, 128 + signal.SIGINT}, node.log()


def test_an_engine_by_url_holds_nothing_up(tmp_path: Path) -> None:
    """Not even one that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        env = {"HERD_ENGINE": f"http://127.0.0.1:{mute.getsockname()[1]}"}
        with Herd(tmp_path, env=env).ready() as herd:
            wait_until(lambda: _asked(mute), 10, "the router to look")
            assert ended_in_s(herd, signal.SIGTERM) < PROMISED_S + SPARE_S


def _asked(mute: socket.socket) -> bool:
    mute.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        mute.accept()[0].detach()
        return True
    return False
