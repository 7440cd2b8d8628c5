"""Nothing leaves the network: a namespace in which every packet to elsewhere is counted."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, wait_until
from tests.e2e.test_netns import CLONE_NEWNET
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings
from tests.security.conftest import CHAT

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("ip") is None or os.geteuid() != 0,
        reason="needs Linux, root and iproute2",
    ),
    pytest.mark.xdist_group("netns"),
]

CANARY = "canary-7f3a9e-in-a-prompt"


@dataclass
class Island:
    """A machine whose only way out is a wire that ends in itself."""

    name: str

    def on(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*self.on(), *words], check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def sent_packets(self) -> int:
        """Packets that went out to anywhere but loopback."""
        links = json.loads(self.run("ip", "-s", "-j", "link", "show", "dev", "out0"))
        return int(links[0]["stats64"]["tx"]["packets"])

    def enter(self) -> Callable[[], None]:
        """Moves the calling thread there."""

        def entering() -> None:
            with Path(f"/run/netns/{self.name}").open() as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")

        return entering


@pytest.fixture
def island() -> Iterator[Island]:
    found = Island(f"herd-i{os.getpid()}")
    try:
        try:
            subprocess.run(["ip", "netns", "add", found.name], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        found.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6 || true")
        found.run("ip", "link", "set", "lo", "up")
        found.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
        found.run("ip", "addr", "add", "192.0.2.2/24", "dev", "out0")
        found.run("ip", "link", "set", "out0", "up")
        found.run("ip", "link", "set", "out1", "up")
        found.run("ip", "route", "add", "default", "via", "192.0.2.1")
        yield found
    finally:
        subprocess.run(["ip", "netns", "del", found.name], check=False, capture_output=True)


def test_nothing_leaves_and_no_prompt_is_written(island: Island, tmp_path: Path) -> None:
    engine = FakeOllama([model("tiny")], Settings(is_frozen=True, num_parallel=4))
    prefix = island.on()
    before = island.sent_packets()
    with engine.in_thread(island.enter()), Herd(tmp_path, prefix=prefix) as herd:
        url = f"http://127.0.0.1:{herd.port}"

        def ask(path: str, body: object = None) -> str:
            """With the namespace's own Python: this process is elsewhere."""
            script = (
                "import sys, urllib.request as u; "
                "r = u.Request(sys.argv[1], sys.argv[2].encode() or None, "
                "{'Content-Type': 'application/json'}); "
                "print(u.build_opener(u.ProxyHandler({})).open(r, timeout=20).read().decode())"
            )
            data = "" if body is None else json.dumps(body)
            return island.run(sys.executable, "-c", script, url + path, data)

        def has_model() -> bool:
            try:
                return "tiny" in ask("/api/tags")
            except subprocess.CalledProcessError:
                return False

        with Node(tmp_path, "a", url, [engine.url], prefix=prefix):
            wait_until(has_model, 40, "the model")
            said = {**CHAT, "messages": [{"role": "user", "content": CANARY}]}
            assert json.loads(ask("/api/chat", said))["done"]
            ask("/v1/chat/completions", said)
            for path in ("/fleet/status", "/fleet/nodes", "/dashboard/api/fleet", "/v1/models"):
                ask(path)
            wait_until(lambda: "tiny" in ask("/dashboard/api/traces"), 20, "the trace")
        herd.terminate()
    assert island.sent_packets() == before
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "herd.db" for path in written)
    assert not [path for path in written if CANARY.encode() in path.read_bytes()]


def test_the_counter_counts(island: Island) -> None:
    """Else the test above could not fail."""
    before = island.sent_packets()
    script = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); "
        "s.sendto(b'x', ('198.51.100.1', 53))"
    )
    island.run(sys.executable, "-c", script)
    wait_until(lambda: island.sent_packets() > before, 10, "the packet to be counted")
