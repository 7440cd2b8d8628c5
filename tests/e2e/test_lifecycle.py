"""Nodes and routers that die, come back, and are told to stop."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ollama_herd import clock
from tests.e2e.processes import DIES_WITH_US, Herd, Node, free_port, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, Response, call
from tests.fakes.state import Fault, Settings
from tests.pace import in_time

FAST = {"HERD_HEARTBEAT_S": "0.3"}
MESSAGES = {"model": "llama3.2", "messages": [{"role": "user", "content": "hi"}]}
SHUTDOWN_S = 5.0 + 1.0
"""Five seconds are promised; one more is for a machine busy with other tests."""


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[FakeOllama]:
    """An engine with `llama3.2` and a model named after the test."""
    models = [model(own_model(request)), model("llama3.2")]
    with FakeOllama(models, Settings(is_frozen=True)).in_thread() as fake:
        yield fake


@pytest.fixture
def own_name(request: pytest.FixtureRequest) -> str:
    """A model that no other test's node has."""
    return own_model(request)


def own_model(request: pytest.FixtureRequest) -> str:
    return str(request.node.name).removeprefix("test_").replace("_", "-")[:60]


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    """For tests that leave the router alone; each has nodes of its own names."""
    with Herd(tmp_path_factory.mktemp("lifecycle"), env=FAST).ready() as running:
        yield running


def start_node(folder: Path, herd_port: int, engine: FakeOllama, name: str = "n1") -> Node:
    return Node(folder, name, f"http://127.0.0.1:{herd_port}", [engine.url])


def chat(herd: Herd, name: str = "llama3.2", **fields: object) -> Response:
    body = {"model": name, "messages": [{"role": "user", "content": "hi"}], **fields}
    return herd.call("POST", "/api/chat", body)


def test_killed_node_goes_late_then_offline_and_comes_back(
    tmp_path: Path, herd: Herd, engine: FakeOllama, own_name: str
) -> None:
    with start_node(tmp_path, herd.port, engine, "killed") as node:
        herd.wait_models(f"{own_name}:latest")
        known = herd.node("killed")
        node.kill()
        herd.wait_node("killed", "late")
        herd.wait_node("killed", "offline")
        refused = chat(herd, own_name)
        assert refused.status == 503
        assert "killed" in refused.json()["error"]
        assert chat(herd, "nope").status == 404
    with start_node(tmp_path, herd.port, engine, "killed"):
        herd.wait_node("killed", "online", 20)
        assert chat(herd, own_name).status == 200
        back = herd.node("killed")
        assert known is not None
        assert back is not None
        assert back["node_id"] == known["node_id"]


def test_node_says_goodbye(tmp_path: Path, herd: Herd, engine: FakeOllama, own_name: str) -> None:
    with start_node(tmp_path, herd.port, engine, "polite") as node:
        herd.wait_models(f"{own_name}:latest")
        status, took_s = node.terminate()
        assert status == 0
        assert in_time(took_s, SHUTDOWN_S)
        herd.wait_node("polite", "offline", 2)


def test_node_shuts_down_while_it_waits_for_a_router(tmp_path: Path, engine: FakeOllama) -> None:
    with Node(tmp_path, "lonely", "http://127.0.0.1:9", [engine.url]) as node:
        wait_until(lambda: "127.0.0.1:9" in node.log(), 20, "a line about the missing router")
        status, took_s = node.terminate()
        assert status == 0
        assert in_time(took_s, SHUTDOWN_S)


def test_new_models_and_dead_engines_are_noticed(
    tmp_path: Path, herd: Herd, engine: FakeOllama, own_name: str
) -> None:
    engine.refuse()  # at first the node waits for its engine
    with start_node(tmp_path, herd.port, engine, "changing"):
        herd.wait_node("changing", "online", 20)
        assert chat(herd, own_name).status in (404, 503)
        engine.listen()
        herd.wait_models(f"{own_name}:latest", timeout_s=40)
        extra = model("gemma3:1b")
        engine.models[extra.key] = extra
        herd.wait_models("gemma3:1b", timeout_s=40)
        assert chat(herd, "gemma3:1b").status == 200
        engine.refuse()
        herd.wait_status(partial(_has_engine_error, "changing"), "the dead engine", 30)
        assert chat(herd, own_name).status == 503
        engine.listen()
        herd.wait_models(f"{own_name}:latest", timeout_s=40)
        assert chat(herd, own_name).status == 200


SPOILED = {
    "tags": ("/api/tags", Fault.GARBAGE),
    "ps": ("/api/ps", Fault.GARBAGE),
    "version": ("/api/version", Fault.CLOSE),
    "show": ("/api/show", Fault.ERROR_500),
}
"""By node, what its engine answers wrongly."""


def test_engines_that_answer_garbage_lose_no_node(tmp_path: Path, herd: Herd) -> None:
    url = f"http://127.0.0.1:{herd.port}"
    with contextlib.ExitStack() as stack:
        engines, nodes = [], []
        for name, (path, fault) in SPOILED.items():
            engine = stack.enter_context(FakeOllama([model(f"on-{name}")]).in_thread())
            engine.fail_next(fault, times=-1, path=path)
            engines.append(engine)
            nodes.append(stack.enter_context(Node(tmp_path, name, url, [engine.url])))
        for name in SPOILED:
            herd.wait_node(name, "online", 30)
        for name in ("tags", "ps"):
            herd.wait_status(partial(_has_engine_error, name), "the reason to be shown", 30)
        for engine in engines:
            engine.heal()
        herd.wait_models(*(f"on-{name}:latest" for name in SPOILED), timeout_s=60)
        for name, node in zip(SPOILED, nodes, strict=True):
            assert chat(herd, f"on-{name}").status == 200
            assert "Traceback" not in node.log()


def _has_engine_error(name: str, status: dict[str, Any]) -> bool:
    found = [n for n in status["nodes"] if n["name"] == name]
    return any(engine["error"] for node in found for engine in node["engines"])


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="one kind of address here")
def test_a_node_by_ipv4_where_the_router_listens_on_all(tmp_path: Path, engine: FakeOllama) -> None:
    with (
        Herd(tmp_path, host="::").ready() as herd,
        Node(tmp_path, "n1", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("llama3.2:latest")
        node = herd.node("n1")
        assert node is not None
        assert node["address"] == "127.0.0.1"
        answer = herd.call("POST", "/api/generate", {"model": "llama3.2", "prompt": "x"})
        assert answer.status == 200, answer.body


def test_restarted_router_answers_at_once(tmp_path: Path, engine: FakeOllama) -> None:
    with Herd(tmp_path, env=FAST).ready() as first, start_node(tmp_path, first.port, engine):
        first.wait_models("llama3.2:latest")
        port = first.port
        tags = first.call("GET", "/api/tags").body
        # What it knows is on disk soon after it is known, so a crash does not lose it.
        wait_until((first.home / "herd.db").exists, 10, "the store")
        assert chat(first).status == 200
        first.terminate()
        with Herd(tmp_path, port=port, env=FAST).ready() as second:
            assert second.call("GET", "/api/tags").body == tags
            assert chat(second).status == 200
            second.wait_node("n1", "online", 20)
            assert chat(second).status == 200


def test_killed_router_remembers_its_fleet(tmp_path: Path, engine: FakeOllama) -> None:
    with Herd(tmp_path, env=FAST).ready() as first:
        port = first.port
        with start_node(tmp_path, port, engine) as node:
            first.wait_models("llama3.2:latest")
            wait_until(lambda: _is_stored(first, node), 10, "the fleet to be on disk")
            first.kill()
            node.kill()
    with Herd(tmp_path, port=port, env={"HERD_HEARTBEAT_S": "1"}).ready() as second:
        known = second.node("n1")
        assert known is not None
        assert known["status"] == "restored"
        assert chat(second).status == 200  # its engine still runs
        second.wait_node("n1", "offline", 20)  # but nobody speaks for it


def test_another_node_key_is_refused(
    tmp_path: Path, herd: Herd, engine: FakeOllama, own_name: str
) -> None:
    with start_node(tmp_path, herd.port, engine, "bound"):
        herd.wait_models(f"{own_name}:latest")
        node = herd.node("bound")
        assert node is not None
        report = {"node_id": node["node_id"], "boot": 9_999_999_999_999, "seq": 1, "leaving": True}
        headers = {"Authorization": "Bearer somebody-else"}
        answer = herd.call("POST", "/fleet/heartbeat", report, headers)
        assert answer.status == 403
        assert "another key" in answer.json()["error"]
        assert chat(herd, own_name).status == 200


def test_router_drains_running_streams(tmp_path: Path, engine: FakeOllama) -> None:
    engine.settings.token_ms = 20
    with Herd(tmp_path, env=FAST).ready() as herd, start_node(tmp_path, herd.port, engine):
        herd.wait_models("llama3.2:latest")
        with Client(herd.port) as client, Client(herd.port) as idle:
            ask = {"model": "llama3.2", "prompt": "x", "options": {"num_predict": 60}}
            client.ask("POST", "/api/generate", ask)
            engine.wait_for(lambda c: c.tokens > 3)
            begun_s = clock.monotonic_s()
            herd.signal(signal.SIGTERM)
            answer = client.read()
            assert answer.is_whole
            assert answer.lines()[-1]["done"] is True
            assert herd.popen.wait(60) == 0
            assert in_time(clock.monotonic_s() - begun_s, SHUTDOWN_S)
            assert idle.closed_by_peer(1)


def test_router_cuts_streams_that_do_not_end(tmp_path: Path, engine: FakeOllama) -> None:
    engine.settings.token_ms = 20
    with Herd(tmp_path, env=FAST).ready() as herd, start_node(tmp_path, herd.port, engine):
        herd.wait_models("llama3.2:latest")
        with Client(herd.port) as client:
            ask = {"model": "llama3.2", "prompt": "x", "options": {"num_predict": -1}}
            client.ask("POST", "/api/generate", ask)
            engine.wait_for(lambda c: c.tokens > 3)
            begun_s = clock.monotonic_s()
            herd.signal(signal.SIGINT)
            wait_until(lambda: _refuses(herd.port), 3, "the door to close to new requests")
            assert herd.popen.wait(10) == 0
            assert in_time(clock.monotonic_s() - begun_s, SHUTDOWN_S)
            assert not client.read().is_whole
        engine.wait_for(lambda c: c.in_flight == 0)


def test_what_still_waits_is_told_why(tmp_path: Path, engine: FakeOllama) -> None:
    engine.settings.token_ms = 20
    env = {**FAST, "HERD_DRAIN_S": "0.5"}
    with Herd(tmp_path, env=env).ready() as herd, start_node(tmp_path, herd.port, engine):
        herd.wait_models("llama3.2:latest")
        with Client(herd.port) as running, Client(herd.port) as waiting:
            ask = {"model": "llama3.2", "prompt": "x", "options": {"num_predict": -1}}
            running.ask("POST", "/api/generate", ask)
            engine.wait_for(lambda c: c.tokens > 3)
            waiting.ask("POST", "/v1/messages", {**MESSAGES, "max_tokens": 5})
            herd.wait_status(lambda s: s["queue"]["waiting"] == 1, "the second to wait")
            herd.signal(signal.SIGTERM)
            answer = waiting.read()
            assert (answer.status, answer.json()["error"]["type"]) == (503, "overloaded_error")
            assert "is shutting down" in answer.json()["error"]["message"]
            assert int(answer.header("retry-after") or 0) > 0
            assert herd.popen.wait(10) == 0
    assert engine.counters.received == 1


def test_second_signal_ends_at_once(tmp_path: Path, engine: FakeOllama) -> None:
    engine.settings.token_ms = 20
    with Herd(tmp_path, env=FAST).ready() as herd, start_node(tmp_path, herd.port, engine):
        herd.wait_models("llama3.2:latest")
        with Client(herd.port) as client:
            ask = {"model": "llama3.2", "prompt": "x", "options": {"num_predict": -1}}
            client.ask("POST", "/api/generate", ask)
            engine.wait_for(lambda c: c.tokens > 3)
            herd.signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in herd.log(), 3, "the first signal to be taken")
            begun_s = clock.monotonic_s()
            herd.signal(signal.SIGTERM)
            herd.popen.wait(10)
            assert in_time(clock.monotonic_s() - begun_s, 0.5)


def _refuses(port: int) -> bool:
    try:
        with Client(port, timeout_s=1) as client:
            client.ask("GET", "/api/version")
            return client.read().status == 503
    except OSError:
        return True


def _is_stored(herd: Herd, node: Node) -> bool:
    """Whether the node's id has reached the store (its file or its write-ahead log)."""
    identity = node.home / "node.json"
    if not identity.exists():
        return False
    known = herd.node("n1")
    assert known is not None
    needle = str(known["node_id"]).encode()
    files = herd.home.glob("herd.db*")
    return any(b"llama3.2" in data and needle in data for data in (f.read_bytes() for f in files))


def test_nobody_reads_the_log(tmp_path: Path, engine: FakeOllama) -> None:
    """`herd | head`, a log collector that died: the work goes on, and ends when it is told to."""
    port = free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--no-mdns"]
    command = [*DIES_WITH_US, sys.executable, "-m", "ollama_herd.cli.herd", *arguments]
    env = {**os.environ, **FAST, "HERD_HOME": str(tmp_path / "router-home")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=env) as unread:
        try:
            assert unread.stderr is not None
            while b"listening" not in unread.stderr.readline():
                assert unread.poll() is None
            unread.stderr.close()
            with start_node(tmp_path, port, engine, "unheard"):  # news, so something to log
                wait_until(lambda: b"llama3.2" in _tags(port), 20, "the node's models")
                unread.terminate()
                assert unread.wait(SHUTDOWN_S) == 0
        finally:
            unread.kill()


def _tags(port: int) -> bytes:
    return call(port, "GET", "/api/tags").body
