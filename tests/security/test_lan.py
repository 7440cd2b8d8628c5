"""What other machines of the network may do, and may not: two network namespaces and a cable."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, wait_until
from tests.e2e.test_netns import (
    ROUTER,
    ROUTER_FOR_TESTER,
    Machines,
    engine_on,
    machines,
    pytestmark,
)

__all__ = ["machines", "pytestmark"]


@pytest.fixture
def closed(machines: Machines, tmp_path: Path) -> Iterator[Herd]:
    prefix = machines.on(machines.router)
    env = {"HERD_JOIN": "approve"}
    with Herd(tmp_path, host="0.0.0.0", port=11435, prefix=prefix, env=env) as herd:
        herd.address = ROUTER_FOR_TESTER
        yield herd.ready()


def test_a_machine_waits_for_approval(machines: Machines, closed: Herd, tmp_path: Path) -> None:
    engine = engine_on(machines, "far", "127.0.0.1")
    url = f"http://{ROUTER}:{closed.port}"
    prefix = machines.on(machines.node)
    with (
        engine.in_thread(machines.entering(machines.node)),
        Node(tmp_path, "far", url, [engine.url], prefix=prefix) as node,
    ):
        wait_until(
            lambda: bool(closed.call("GET", "/fleet/joining").json()["waiting"]), 20, "a request"
        )
        assert not closed.status()["nodes"]
        wait_until(lambda: "herd nodes approve" in node.log(), 10, "the agent to say so")
        for what in ("approve", "ban", "rename", "drain"):  # from the network, nobody may
            answer = closed.call("POST", f"/fleet/nodes/far/{what}", b"{}")
            assert answer.status == 403
            assert "127.0.0.1" in answer.json()["error"]
        approving = [*machines.on(machines.router), sys.executable, "-m", "ollama_herd.cli.herd"]
        subprocess.run([*approving, "nodes", "approve", "far"], check=True, timeout=60)
        closed.wait_models("far:latest", timeout_s=60)
        body = {"model": "far", "prompt": "Say hi", "stream": False}
        assert closed.call("POST", "/api/generate", body).status == 200
        assert closed.call("POST", "/fleet/nodes/far/drain").status == 403
        for path in ("/fleet/nodes", "/fleet/status", "/dashboard/api/fleet"):
            assert b"relay_key" not in closed.call("GET", path).body
