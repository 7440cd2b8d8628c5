"""Quiet hours from a node's settings to a client's error."""

import json
from pathlib import Path

from typer.testing import CliRunner

from ollama_herd import clock
from ollama_herd.cli.commands import app
from tests.e2e.processes import Herd, Node, stopping
from tests.e2e.test_old_agent import KEY, REPORTS
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client
from tests.fakes.state import Settings

PROMPT = {"model": "m", "prompt": "x", "stream": False}


def around_now() -> str:
    """From an hour ago until in two hours, as a range; whole hours, so that no minute is missed."""
    hour = int(clock.week_s() // 3600)
    return f"{(hour - 1) % 24:02}:00-{(hour + 2) % 24:02}:00"


def run(herd: Herd, *command: str) -> str:
    url = f"http://127.0.0.1:{herd.port}"
    env = {"COLUMNS": "200", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*command, "--router", url], env=env)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def is_quiet(herd: Herd, name: str) -> bool:
    node = herd.node(name)
    return node is not None and bool(node["vitals"].get("quiet_until"))


def test_a_quiet_node_gets_nothing_and_everybody_is_told_why(tmp_path: Path) -> None:
    hours = around_now()
    until = hours.partition("-")[2]
    with FakeOllama([model("m")]).in_thread() as engine, Herd(tmp_path).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(tmp_path, "n", url, [engine.url], env={"HERD_NODE_QUIET_HOURS": hours}) as node:
            herd.wait_status(lambda _: is_quiet(herd, "n"), "the node to say that it is quiet")
            assert f"quiet hours until {until}: this machine gets no new requests" in node.log()
            answer = herd.call("POST", "/api/generate", PROMPT)
            assert answer.status == 503
            assert f"n (quiet hours until {until}); ask again" in answer.json()["error"]
            assert answer.header("Retry-After") == "60"
            excluded = herd.call("GET", "/fleet/explain?model=m").json()["excluded"]
            assert [(one["reason"], one["detail"]) for one in excluded] == [
                ("quiet_hours", f"until {until}")
            ]
            assert f"quiet until {until}" in run(herd, "status")
            assert f"quiet until {until}" in run(herd, "nodes")
            assert "0 of 1 nodes take requests" in run(herd, "status")
            assert "quiet hours" in run(herd, "explain", "m")
            assert engine.counters.by_path["/api/generate"] == 0
            # Whoever manages models still reaches it.
            copied = herd.call("POST", "/api/copy", {"source": "m", "destination": "m2"})
            assert copied.status == 200, copied.body
            node.terminate()
        with Node(tmp_path, "n", url, [engine.url], env={"HERD_NODE_QUIET_HOURS": ""}):
            herd.wait_status(lambda _: not is_quiet(herd, "n"), "the node to be back")
            assert herd.call("POST", "/api/generate", PROMPT).status == 200


def test_another_node_serves_meanwhile(tmp_path: Path) -> None:
    quiet = {"HERD_NODE_QUIET_HOURS": around_now()}
    with (
        FakeOllama([model("m")]).in_thread() as loud,
        FakeOllama([model("m")]).in_thread() as other,
        Herd(tmp_path).ready() as herd,
    ):
        url = f"http://127.0.0.1:{herd.port}"
        with stopping(
            Node(tmp_path, "loud", url, [loud.url], env=quiet),
            Node(tmp_path, "other", url, [other.url]),
        ):
            herd.wait_models("m:latest")
            herd.wait_node("other", "online")
            herd.wait_status(lambda _: is_quiet(herd, "loud"), "the node to say that it is quiet")
            for _ in range(3):
                answer = herd.call("POST", "/api/generate", PROMPT)
                assert answer.header("X-Herd-Node") == "other"
            assert loud.counters.by_path["/api/generate"] == 0


def test_what_runs_when_they_begin_ends_as_it_would(tmp_path: Path) -> None:
    """The report is written by hand, so that the hours begin at a moment of the test's choice."""
    report = json.loads((REPORTS / "protocol-1.json").read_bytes())
    slow = Settings(token_ms=50)
    with (
        FakeOllama([model("llama3.2")], slow).in_thread() as engine,
        Herd(tmp_path).ready() as herd,
    ):
        report["engines"][0]["port"] = engine.port

        def beat(seq: int, until: str) -> None:
            vitals = report["vitals"] | {"quiet_until": until}
            said = report | {"seq": seq, "vitals": vitals}
            assert herd.call("POST", "/fleet/heartbeat", said, headers=KEY).status == 200

        beat(1, "")
        asked = {"model": "llama3.2", "prompt": "x", "options": {"num_predict": 20}}
        with Client(herd.port) as client:
            client.ask("POST", "/api/generate", asked)
            answer = client.begin("POST")
            assert answer.status == 200
            beat(2, "07:00")
            assert herd.call("POST", "/api/generate", asked).status == 503
            for _ in client.body(answer):
                pass
            assert answer.is_whole
            assert answer.lines()[-1]["done"] is True
