"""kill -9 and restart of a router or an agent, wherever it is in its work."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, free_port
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client
from tests.fakes.state import Settings

FAST = {"HERD_HEARTBEAT_S": "0.3"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MOMENTS_S = (0.0, 0.02, 0.1, 0.3, 0.7, 1.2)
"""From the start of a process to its end: among imports, migration, first report, first answers."""


@pytest.fixture
def engine() -> Iterator[FakeOllama]:
    with FakeOllama([model("m")], Settings(is_frozen=True, token_ms=2)).in_thread() as fake:
        yield fake


def start_node(folder: Path, herd_port: int, engine: FakeOllama) -> Node:
    return Node(folder, "n", f"http://127.0.0.1:{herd_port}", [engine.url])


def check_database(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "herd.db", timeout=5)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_router_killed_at_any_moment_knows_its_fleet(tmp_path: Path, engine: FakeOllama) -> None:
    port = free_port()
    with start_node(tmp_path, port, engine):
        with Herd(tmp_path, port=port, env=FAST).ready() as first:
            first.wait_models("m:latest")
            known = first.node("n")
            first.terminate()  # in order: its fleet is on disk, and no kill below may lose it
        assert known is not None
        for moment_s in MOMENTS_S:
            with Herd(tmp_path, port=port, env=FAST) as killed, contextlib.ExitStack() as clients:
                time.sleep(moment_s)  # the moment is what is tested
                with contextlib.suppress(OSError):
                    client = clients.enter_context(Client(port))
                    client.ask("POST", "/api/chat", CHAT)
                killed.kill()
        with Herd(tmp_path, port=port, env=FAST).ready() as last:
            answers = [last.call("POST", "/api/chat", CHAT).status for _ in range(5)]
            assert answers == [200] * 5
            last.wait_node("n", "online", 20)
            assert [n["node_id"] for n in last.status()["nodes"]] == [known["node_id"]]
            assert "Traceback" not in last.log()
    check_database(tmp_path / "router-home")


def test_an_agent_killed_at_any_moment_is_the_same_node(tmp_path: Path, engine: FakeOllama) -> None:
    with Herd(tmp_path, env=FAST).ready() as herd:
        with start_node(tmp_path, herd.port, engine):
            herd.wait_models("m:latest")
            known = herd.node("n")
        assert known is not None
        for moment_s in MOMENTS_S:
            with start_node(tmp_path, herd.port, engine) as killed:
                time.sleep(moment_s)  # the moment is what is tested
                killed.kill()
            assert herd.call("POST", "/api/chat", CHAT).status in (200, 503)
        with start_node(tmp_path, herd.port, engine) as last:
            herd.wait_models("m:latest")
            herd.wait_node("n", "online", 20)
            assert [n["node_id"] for n in herd.status()["nodes"]] == [known["node_id"]]
            assert herd.call("POST", "/api/chat", CHAT).status == 200
            assert "Traceback" not in last.log()


def test_the_first_start_of_an_agent_may_be_its_last_moment(
    tmp_path: Path, engine: FakeOllama
) -> None:
    """An identity that is half written would be a node lost, or one too many."""
    with Herd(tmp_path, env=FAST).ready() as herd:
        for moment_s in (0.4, 0.5, 0.6, 0.7, 0.8):
            with start_node(tmp_path, herd.port, engine) as killed:
                time.sleep(moment_s)  # the moment is what is tested
                killed.kill()
        with start_node(tmp_path, herd.port, engine):
            herd.wait_models("m:latest")
            herd.wait_node("n", "online", 20)
            assert len(herd.status()["nodes"]) == 1
            assert herd.call("POST", "/api/chat", CHAT).status == 200
