"""`herd doctor` and `herd-node doctor`: what is wrong is named by its code, nothing else is."""

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_start import start
from tests.documents import DOCS, ROOT
from tests.e2e.processes import Herd, Node, free_port, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama


def codes(command: str, *arguments: str, home: Path, **variables: str) -> tuple[int, set[str]]:
    """Exit status and the codes of all that is not ok."""
    ended = start(command, "doctor", *arguments, "--json", home=home, **variables)
    found = json.loads(ended.stdout)["findings"]
    bad = {one["code"] for one in found if one["grade"] != "ok"} - {"firewall-active"}
    assert all(one["advice"] for one in found if one["grade"] != "ok")
    return ended.returncode, bad


def test_every_code_is_told() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    used = set()
    for name in ("doctor", "node_doctor", "machine"):
        text = (ROOT / "src" / "ollama_herd" / "cli" / f"{name}.py").read_text(encoding="utf-8")
        used |= set(re.findall(r'\b(?:ok|warning|critical)\(\s*"([a-z-]+)"', text))
    assert len(used) > 25
    assert {code for code in used if f"`{code}`" not in page} == set()


@pytest.fixture
def engine() -> Iterator[FakeOllama]:
    fake = FakeOllama([model("m1")])
    with fake.in_thread():
        yield fake


def test_a_herd_that_works(tmp_path: Path, engine: FakeOllama) -> None:
    with Herd(tmp_path).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(tmp_path, "studio", url, [engine.url]) as node:
            herd.wait_models("m1:latest")
            assert codes("herd", "--router", url, home=tmp_path) == (0, set())
            here = {"HERD_PORT": str(herd.port), "HERD_HOST": "127.0.0.1", "HERD_MDNS": "false"}
            assert codes("herd", home=tmp_path, **here) == (0, {"listens-on-loopback"})
            joined = {"HERD_NODE_ROUTER": url, "HERD_NODE_ENGINE": engine.url}
            assert codes("herd-node", home=node.home, **joined) == (0, set())
            shown = start("herd", "doctor", "--router", url, home=tmp_path)
            assert "node studio serves 1 model\n" in shown.stdout


def test_what_is_wrong_with_nodes(tmp_path: Path, engine: FakeOllama) -> None:
    with Herd(tmp_path).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        assert codes("herd", "--router", url, home=tmp_path) == (1, {"no-node"})
        stranger = {"HERD_NODE_ROUTER": url, "HERD_NODE_ENGINE": engine.url}
        assert codes("herd-node", home=tmp_path / "new", **stranger) == (0, {"node-unknown"})
        assert not (tmp_path / "new" / "node.json").exists()
        dead = f"http://127.0.0.1:{free_port()}"
        with Node(tmp_path, "deaf", url, [dead]) as node:
            herd.wait_node("deaf", "online")
            herd.wait_status(lambda s: s["nodes"][0]["engines"][0]["error"] != "", "its error")
            assert codes("herd", "--router", url, home=tmp_path) == (1, {"engine-unreachable"})
            joined = {"HERD_NODE_ROUTER": url, "HERD_NODE_ENGINE": dead}
            found = codes("herd-node", home=node.home, **joined)
            assert found == (1, {"engine-unreachable", "engine-refused"})
            herd.call("POST", "/fleet/nodes/deaf/drain")
            joined["HERD_NODE_ENGINE"] = engine.url
            found = codes("herd-node", home=node.home, **joined)
            assert found == (1, {"engine-refused", "node-drained"})
            node.terminate()
            herd.wait_node("deaf", "offline")
        assert codes("herd", "--router", url, home=tmp_path) == (0, {"node-offline"})
        assert codes("herd-node", home=node.home, **joined) == (1, {"node-offline"})


def test_no_router_and_a_taken_port(tmp_path: Path, engine: FakeOllama) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert codes("herd", "--router", url, home=tmp_path) == (1, {"router-unreachable"})
    with socket.socket() as other:  # bound, and answers nobody
        other.bind(("127.0.0.1", 0))
        env = {"HERD_PORT": str(other.getsockname()[1]), "HERD_HOST": "127.0.0.1"}
        status, found = codes("herd", home=tmp_path, **env)
    assert status == 1
    assert found == {"listens-on-loopback", "port-not-usable", "router-unreachable"}
    # An Ollama is no router.
    assert codes("herd", "--router", engine.url, home=tmp_path) == (1, {"router-other-version"})


def test_wrong_settings(tmp_path: Path) -> None:
    assert codes("herd", home=tmp_path, HERD_PORT="x") == (1, {"settings-invalid"})
    assert codes("herd-node", home=tmp_path, HERD_NODE_SLOTS="x") == (1, {"settings-invalid"})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    assert "home-not-writable" in codes("herd", home=home, HERD_MDNS="false")[1]


def test_over_tls(tmp_path: Path) -> None:
    """A router with a certificate of its own authority is asked as any other."""
    pytest.importorskip("cryptography", reason="the extra tls is not installed")
    home = tmp_path / "router-home"
    assert start("herd", "tls", "init", home=home).returncode == 0
    port = free_port()
    env = {
        "HERD_TLS_CERT": str(home / "tls" / "router.pem"),
        "HERD_TLS_KEY": str(home / "tls" / "router.key"),
        "HERD_HOST": "127.0.0.1",
        "HERD_PORT": str(port),
        "HERD_MDNS": "false",
    }
    with Herd(tmp_path, port=port, env=env) as herd:
        wait_until(lambda: "herd is listening" in herd.log(), 20, "the router")
        assert codes("herd", home=home, **env) == (1, {"listens-on-loopback", "no-node"})
        joined = {
            "HERD_NODE_ROUTER": f"https://127.0.0.1:{port}",
            "HERD_NODE_ROUTER_CA": str(home / "tls" / "ca.pem"),
            "HERD_NODE_ENGINE": f"http://127.0.0.1:{free_port()}",
        }
        found = codes("herd-node", home=tmp_path / "n", **joined)
        assert found == (1, {"engine-unreachable", "node-unknown"})
        del joined["HERD_NODE_ROUTER_CA"]
        found = codes("herd-node", home=tmp_path / "n", **joined)
        assert found == (1, {"engine-unreachable", "router-unreachable"})


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_may_be_listened_on(tmp_path: Path) -> None:
    here = {"HERD_PORT": str(free_port()), "HERD_HOST": "::1", "HERD_MDNS": "false"}
    _, found = codes("herd", home=tmp_path, **here)
    assert found == {"listens-on-loopback", "router-unreachable"}


@pytest.mark.skipif(os.name != "posix", reason="Windows lets nobody else have a port")
def test_a_port_that_was_in_use_a_moment_ago_is_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            taken, _ = server.accept()
            taken.close()  # who closes first keeps the port for a minute
            assert client.recv(1) == b""
    here = {"HERD_PORT": str(port), "HERD_HOST": "127.0.0.1", "HERD_MDNS": "false"}
    _, found = codes("herd", home=tmp_path, **here)
    assert found == {"listens-on-loopback", "router-unreachable"}


def test_a_router_is_named_as_everywhere(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd:
        assert codes("herd", "--router", f"127.0.0.1:{herd.port}", home=tmp_path) == (
            1,
            {"no-node"},
        )
    bad = start("herd", "doctor", "--router", "http://127.0.0.1:99999", home=tmp_path)
    assert bad.returncode == 2
    assert "Traceback" not in bad.stderr


def test_the_home_of_nobody(tmp_path: Path) -> None:
    ended = start("herd", "config", "--home", "~nobody-of-that-name/x", home=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "~nobody-of-that-name" in ended.stderr
