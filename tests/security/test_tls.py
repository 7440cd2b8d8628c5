"""TLS: served on the same socket, renewed without a restart, and nodes know their router by it."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ollama_herd.config import API_KEY_VARIABLE
from ollama_herd.router.tls import Certificate, CertificateUnusable
from tests.e2e.processes import Herd, Node, free_port, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, Response
from tests.fakes.state import Settings
from tests.security.conftest import CHAT
from tests.security.test_keys import cli

pytest.importorskip("cryptography", reason="the extra tls is not installed")

PLANES = ("raw", "aiohttp")


def client(port: int, ca: Path | None, name: str = "localhost") -> Client:
    """A connection over TLS that trusts this CA alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        context.load_verify_locations(ca)
    found = Client(port)
    found.socket = context.wrap_socket(found.socket, server_hostname=name)
    return found


@dataclass
class Secure:
    """A herd with TLS and one node."""

    herd: Herd
    node: Node
    folder: Path
    url: str

    def call(self, method: str, path: str, body: object = None) -> Response:
        with client(self.herd.port, self.folder / "ca.pem") as over_tls:
            over_tls.ask(method, path, body)
            return over_tls.read(method)

    def wait(self, path: str, part: bytes) -> None:
        def has() -> bool:
            try:
                return part in self.call("GET", path).body
            except OSError:
                return False

        wait_until(has, 30, f"{part!r} in {path}")


@pytest.fixture(scope="module", params=PLANES)
def secure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    home = folder / "router-home"
    cli(home, "init", "herd.example.com", group="tls")
    tls = home / "tls"
    port = free_port()
    env = {
        "HERD_TLS_CERT": str(tls / "router.pem"),
        "HERD_TLS_KEY": str(tls / "router.key"),
        "HERD_DATA_PLANE": request.param,
    }
    url = f"https://127.0.0.1:{port}"
    engine = FakeOllama([model("tiny")], Settings(is_frozen=True, num_parallel=4))
    ca = {"HERD_NODE_ROUTER_CA": str(tls / "ca.pem")}
    with (
        engine.in_thread(),
        Herd(folder, port=port, env=env) as herd,
        Node(folder, "a", url, [engine.url], env=ca) as node,
    ):
        found = Secure(herd, node, tls, url)
        found.wait("/api/tags", b"tiny")
        yield found
        assert "Traceback" not in herd.log()


def test_both_planes_answer_over_tls(secure: Secure) -> None:
    assert secure.call("GET", "/api/version").status == 200
    assert secure.call("POST", "/api/chat", CHAT).json()["done"]
    streamed = secure.call("POST", "/api/chat", {**CHAT, "stream": True})
    assert streamed.is_whole
    assert streamed.lines()[-1]["done"]
    with client(secure.herd.port, secure.folder / "ca.pem") as kept:
        for method, path in (("POST", "/api/chat"), ("GET", "/api/tags"), ("POST", "/api/chat")):
            kept.ask(method, path, CHAT if method == "POST" else None)
            assert kept.read(method).status == 200  # and the connection moves between planes


def test_a_large_body_and_a_client_that_leaves(secure: Secure) -> None:
    padded = {**CHAT, "x": "y" * 3_000_000}
    assert secure.call("POST", "/api/chat", padded).status == 200
    for _ in range(5):
        leaving = client(secure.herd.port, secure.folder / "ca.pem")
        leaving.ask("POST", "/api/chat", {**CHAT, "stream": True})
        leaving.close()
    assert secure.call("POST", "/api/chat", CHAT).status == 200


def test_no_answer_without_tls_and_none_for_strangers(secure: Secure) -> None:
    with Client(secure.herd.port, timeout_s=10) as plain:
        plain.send(b"GET /api/tags HTTP/1.1\r\nHost: x\r\n\r\n")
        assert plain.closed_by_peer(5)
    with pytest.raises(ssl.SSLError):
        client(secure.herd.port, None)
    with pytest.raises(ssl.SSLError):
        client(secure.herd.port, secure.folder / "ca.pem", "evil.example.com")
    for name in ("herd.example.com", socket.gethostname().lower(), "127.0.0.1"):
        client(secure.herd.port, secure.folder / "ca.pem", name).close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(secure.folder / "ca.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", secure.herd.port), 10) as old,
        context.wrap_socket(old, server_hostname="localhost") as wrapped,
    ):
        assert wrapped.version() == "TLSv1.2"


def test_a_handshake_that_never_ends_holds_nobody_up(secure: Secure) -> None:
    silent = [socket.create_connection(("127.0.0.1", secure.herd.port)) for _ in range(50)]
    try:
        assert secure.call("GET", "/api/version").status == 200
    finally:
        for one in silent:
            one.close()


def test_a_renewed_certificate_is_taken_without_a_restart(secure: Secure) -> None:
    with client(secure.herd.port, secure.folder / "ca.pem") as before:
        old = before.socket.getpeercert()["serialNumber"]  # type: ignore[attr-defined]
        good = (secure.folder / "router.pem").read_bytes()
        (secure.folder / "router.pem").write_bytes(b"half a pair")
        wait_until(lambda: "old one stays" in secure.herd.log(), 10, "the warning")
        assert secure.call("GET", "/api/version").status == 200
        (secure.folder / "router.pem").write_bytes(good)
        ca = (secure.folder / "ca.pem").read_bytes()
        cli(secure.folder.parent, "init", group="tls")
        assert (secure.folder / "ca.pem").read_bytes() == ca

        def is_new() -> bool:
            with client(secure.herd.port, secure.folder / "ca.pem") as now:
                return bool(now.socket.getpeercert()["serialNumber"] != old)  # type: ignore[attr-defined]

        wait_until(is_new, 10, "the new certificate")
        before.ask("POST", "/api/chat", CHAT)  # who was there goes on
        assert before.read().status == 200


def test_no_handshake_fails_while_a_certificate_is_renewed(secure: Secure) -> None:
    certificate = Certificate(secure.folder / "router.pem", secure.folder / "router.key")
    trusting = ssl.create_default_context(cafile=secure.folder / "ca.pem")
    loaded = []

    def renew() -> None:
        for number in range(1, 301):
            os.utime(secure.folder / "router.pem", ns=(number, number))
            certificate.look()
        loaded.append(True)

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        while not loaded:
            shake_hands(certificate.context, trusting)
    finally:
        renewing.join()


def shake_hands(serving: ssl.SSLContext, asking: ssl.SSLContext) -> None:
    """One handshake in memory. Raises SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = asking.wrap_bio(down, up, server_hostname="localhost")
    server_end = serving.wrap_bio(up, down, server_side=True)
    for end in (client_end, server_end, client_end, server_end):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert client_end.getpeercert()


def test_the_dashboards_cookie_is_for_tls_alone(secure: Secure) -> None:
    key = json.loads(
        cli(secure.folder.parent, "create", "me", "--scope", "admin", "--json").splitlines()[-1]
    )["key"]
    try:
        with client(secure.herd.port, secure.folder / "ca.pem") as asking:
            wait_until(lambda: secure.call("GET", "/api/tags").status == 401, 10, "the key")
            asking.ask("POST", "/dashboard/login", {"key": key})
            answer = asking.read()
        assert answer.status == 200
        assert "Secure" in answer.header("set-cookie")
        assert _status(secure, key).returncode == 0
    finally:
        cli(secure.folder.parent, "off", "--yes")
        wait_until(lambda: secure.call("GET", "/api/tags").status == 200, 10, "the open door")


def _status(secure: Secure, key: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HERD_HOME": str(secure.folder.parent), API_KEY_VARIABLE: key}
    command = [sys.executable, "-m", "ollama_herd.cli.herd", "nodes", "--router", secure.url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)


def test_nodes_know_their_router(secure: Secure, tmp_path: Path) -> None:
    """Neither another CA nor plain HTTP is the router that this node was told of."""
    other = tmp_path / "other"
    cli(other, "init", group="tls")
    wrong = {"HERD_NODE_ROUTER_CA": str(other / "tls" / "ca.pem")}
    with Node(tmp_path, "fooled", secure.url, ["http://127.0.0.1:1"], env=wrong) as node:
        wait_until(lambda: "cannot be reached" in node.log(), 20, "the refusal")
        assert b"fooled" not in secure.call("GET", "/fleet/status").body
    plain = secure.url.replace("https", "http")
    with Node(tmp_path, "plain", plain, ["http://127.0.0.1:1"], env=wrong) as node:
        assert node.popen.wait(20) == 1
        assert "https://" in node.log()


def test_keys_are_for_their_owner_alone(secure: Secure) -> None:
    for name in ("ca.key", "router.key"):
        assert (secure.folder / name).stat().st_mode & 0o077 == 0
    assert secure.folder.stat().st_mode & 0o077 == 0


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateUnusable, match="nowhere"):
        Certificate(tmp_path / "nowhere.pem", tmp_path / "nowhere.key")
    (tmp_path / "a.pem").write_text("no certificate")
    with pytest.raises(CertificateUnusable, match=r"a\.pem"):
        Certificate(tmp_path / "a.pem", tmp_path / "a.pem")
