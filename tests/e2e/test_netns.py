"""Router and node on different machines, as far as one kernel can show it: two network
namespaces and a cable. The engine listens on its machine's loopback, like Ollama does."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ollama_herd import clock
from tests.e2e.processes import Herd, Node
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client
from tests.fakes.state import Settings
from tests.pace import in_time

CLONE_NEWNET = 0x40000000
ALLOWED_S = 0.25
ASK = {"model": "far", "prompt": "Say hi"}
ROUTER, NODE, TESTER = "10.213.77.1", "10.213.77.2", "10.213.78.1"
ROUTER_FOR_TESTER = "10.213.78.2"

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("ip") is None or os.geteuid() != 0,
        reason="needs Linux, root and iproute2",
    ),
    pytest.mark.xdist_group("netns"),
]


@dataclass
class Machines:
    """The names of two namespaces joined by a cable."""

    router: str
    node: str

    def on(self, name: str) -> list[str]:
        """A command prefix that runs on that machine."""
        return ["ip", "netns", "exec", name]

    def entering(self, name: str) -> Callable[[], None]:
        """A function that moves the calling thread to that machine."""

        def enter() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/run/netns/{name}").open() as handle:
                if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")

        return enter


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _clear_dead() -> None:
    """Remove what test runs that were killed have left: their process id is in the name."""
    names = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    for name in re.findall(r"^herd-[rn]\d+", names.stdout, re.MULTILINE):
        if not Path(f"/proc/{name[6:]}").exists():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    _clear_dead()
    tag = str(os.getpid())
    found = Machines(f"herd-r{tag}", f"herd-n{tag}")
    try:
        try:
            _ip("netns", "add", found.router)
            _ip("netns", "add", found.node)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        _ip("link", "add", f"vr{tag}", "type", "veth", "peer", "name", f"vn{tag}")
        _ip("link", "set", f"vr{tag}", "netns", found.router)
        _ip("link", "set", f"vn{tag}", "netns", found.node)
        _ip("link", "add", f"vt{tag}", "type", "veth", "peer", "name", f"vu{tag}")
        _ip("link", "set", f"vu{tag}", "netns", found.router)
        _ip("addr", "add", f"{TESTER}/24", "dev", f"vt{tag}")
        _ip("link", "set", f"vt{tag}", "up")
        for name, links in (
            (found.router, ((f"vr{tag}", ROUTER), (f"vu{tag}", ROUTER_FOR_TESTER))),
            (found.node, ((f"vn{tag}", NODE),)),
        ):
            _ip("-n", name, "link", "set", "lo", "up")
            for link, address in links:
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
                _ip("-n", name, "link", "set", link, "up")
        _ip("-n", found.node, "route", "add", "default", "via", ROUTER)
        yield found
    finally:
        for name in (found.router, found.node):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", f"vt{tag}"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def herd(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder = tmp_path_factory.mktemp("netns")
    prefix = machines.on(machines.router)
    with Herd(folder, host="0.0.0.0", port=11435, prefix=prefix, mdns=True) as running:
        running.address = ROUTER_FOR_TESTER
        yield running.ready()


def engine_on(machines: Machines, name: str, host: str) -> FakeOllama:
    return FakeOllama([model(name)], Settings(is_frozen=True, num_parallel=4), host=host)


@pytest.fixture(scope="module")
def far(
    machines: Machines, herd: Herd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeOllama]:
    """A node on the other machine, its engine on that machine's loopback."""
    engine = engine_on(machines, "far", "127.0.0.1")
    folder = tmp_path_factory.mktemp("far")
    with engine.in_thread(machines.entering(machines.node)):
        node = Node(
            folder,
            "far",
            f"http://{ROUTER}:{herd.port}",
            [engine.url],
            env={"HERD_NODE_SLOTS": "4"},
            prefix=machines.on(machines.node),
        )
        with node:
            herd.wait_models("far:latest")
            yield engine


def test_loopback_engine_of_another_machine_is_relayed(herd: Herd, far: FakeOllama) -> None:
    node = herd.node("far")
    assert node is not None
    assert node["address"] == NODE
    assert _path_to(herd.status(), "far") == ["relay"]
    for stream in (True, False):
        answer = herd.call("POST", "/api/generate", {**ASK, "stream": stream})
        assert answer.status == 200
        assert answer.is_whole
        assert answer.header("x-herd-node") == "far"
    far.wait_for(lambda c: c.finished == 2)


def test_leaving_reaches_the_other_machine(herd: Herd, far: FakeOllama) -> None:
    far.settings.token_ms = 5
    before = far.counters.cancelled
    client = Client(herd.port, ROUTER_FOR_TESTER)
    client.ask("POST", "/api/generate", {**ASK, "options": {"num_predict": -1}})
    far.wait_for(lambda c: c.in_flight == 1)
    left_s = clock.monotonic_s()
    client.close()
    far.wait_for(lambda c: c.cancelled == before + 1)
    took_s = far.counters.last_cancelled_s - left_s
    print(f"engine saw it after {took_s * 1000:.1f} ms")  # noqa: T201 (pytest shows it)
    assert in_time(took_s, ALLOWED_S)
    far.settings.token_ms = 0


def test_engine_on_the_lan_is_used_directly(machines: Machines, herd: Herd, tmp_path: Path) -> None:
    engine = engine_on(machines, "open", "0.0.0.0")
    with engine.in_thread(machines.entering(machines.node)):
        url = f"http://127.0.0.1:{engine.port}"
        prefix = machines.on(machines.node)
        with Node(tmp_path, "open", f"http://{ROUTER}:{herd.port}", [url], prefix=prefix):
            herd.wait_models("open:latest")
            herd.wait_status(lambda s: _path_to(s, "open") == ["direct"], "the direct way")
            answer = herd.call("POST", "/api/generate", {**ASK, "model": "open"})
            assert answer.status == 200


def test_node_finds_the_router_by_mdns(machines: Machines, herd: Herd, tmp_path: Path) -> None:
    engine = engine_on(machines, "found", "127.0.0.1")
    with engine.in_thread(machines.entering(machines.node)):
        prefix = machines.on(machines.node)
        with Node(tmp_path, "found", "", [engine.url], prefix=prefix):
            herd.wait_models("found:latest", timeout_s=30)
            answer = herd.call("POST", "/api/generate", {**ASK, "model": "found"})
            assert answer.status == 200
            assert answer.header("x-herd-node") == "found"


def _path_to(status: dict[str, Any], name: str) -> list[str]:
    """How the engines of a node are reached, once the agent has found that out."""
    return [e["path"] for n in status["nodes"] if n["name"] == name for e in n["engines"]]
