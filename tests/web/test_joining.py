"""Machines that wait to join, approved and banned in a real browser on the router's machine."""

from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, wait_until
from tests.e2e.test_netns import ROUTER, ROUTER_FOR_TESTER, Machines, engine_on, machines
from tests.e2e.test_netns import pytestmark as needs_namespaces
from tests.web import browser

__all__ = ["machines"]

pytestmark = [
    *needs_namespaces,
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
    pytest.mark.timeout(180),
]


def test_the_owner_decides_who_joins(machines: Machines, tmp_path: Path) -> None:
    here, there = machines.on(machines.router), machines.on(machines.node)
    engine = engine_on(machines, "far", "127.0.0.1")
    env = {"HERD_JOIN": "approve"}
    with Herd(tmp_path, host="0.0.0.0", port=11435, prefix=here, env=env) as herd:
        herd.address = ROUTER_FOR_TESTER
        herd.ready()
        url = f"http://{ROUTER}:{herd.port}"

        def waiting() -> set[str]:
            found = herd.call("GET", "/fleet/joining").json()["waiting"]
            return {one["name"] for one in found}

        def joined() -> set[str]:
            return {node["name"] for node in herd.status()["nodes"]}

        def nobody_joined() -> None:
            assert waiting() == {"friend", "stranger"}
            assert not joined()

        with (
            engine.in_thread(machines.entering(machines.node)),
            Node(tmp_path, "friend", url, [engine.url], prefix=there),
            Node(tmp_path, "stranger", url, [engine.url], prefix=there) as stranger,
        ):
            wait_until(lambda: len(waiting()) == 2, 30, "two machines to ask")
            status, said = browser.run(
                "joining",
                f"http://127.0.0.1:{herd.port}",
                {"nobody joined": nobody_joined, "friend joined": lambda: None},
                prefix=here,
            )
            assert status == 0, said
            assert joined() == {"friend"}
            wait_until(lambda: "banned from the herd" in stranger.log(), 20, "the ban to be told")
