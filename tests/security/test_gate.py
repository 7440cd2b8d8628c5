"""Which hosts, origins and clients the gate lets in, by themselves and on both planes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.errors import FOREIGN_ORIGIN, TWO_HOSTS, ApiError
from ollama_herd.api.origin import is_allowed, is_known_host
from ollama_herd.router.gate import REMEMBERED, Gate, own_host_names

OWN = frozenset({"studio", "studio.fritz.box", ".example.org"})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "127.0.0.1",
        "192.168.1.10:11435",
        "203.0.113.7",
        "[::1]",
        "[fd7a::1]:11435",
        "localhost:11435",
        "app.localhost",
        "herd",
        "ollama-herd:11435",
        "Studio.LOCAL:11435",
        "studio.local.",
        "host.docker.internal:11435",
        "box.lan",
        "box.home.arpa",
        "studio.fritz.box",
        "a.example.org",
    ],
)
def test_names_of_a_herd(host: str) -> None:
    assert is_known_host(host, OWN)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "evil.example.com:11435",
        "example.org",
        "evilexample.org",
        "local.evil.com",
        "localhost.evil.com",
        "127.0.0.1.nip.io",
        "192-168-1-10.evil.com",
        "studio.evil.com",
        "evil.com.",
        "[::1].evil.com",
        "evil.com:local",
        "a b.com",
    ],
)
def test_names_of_strangers(host: str) -> None:
    assert not is_known_host(host, OWN)


def test_star_takes_every_name() -> None:
    assert is_known_host("evil.example.com", {"*"})


@given(st.text(max_size=40))
def test_no_text_breaks_the_checks(text: str) -> None:
    assert is_known_host(text, OWN) in (True, False)
    assert is_allowed(text, text) in (True, False)
    assert is_allowed(f"http://{text}", "herd") in (True, False)


def test_own_names_come_from_the_machine_alone(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 10.0.0.1\nsearch fritz.box corp.example.\n")
    names = own_host_names(resolv)
    shorts = {name.removesuffix(".fritz.box") for name in names if name.endswith(".fritz.box")}
    assert {f"{short}.corp.example" for short in shorts} <= names
    assert shorts <= names
    assert own_host_names(tmp_path / "none")


def _ask(gate: Gate, client: str = "192.168.1.5", **headers: str) -> object:
    return gate([(name.encode(), value.encode()) for name, value in headers.items()], client)


def test_private_clients_only() -> None:
    gate = Gate()
    for near in (
        "127.0.0.1",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.0.9",
        "169.254.3.4",
        "100.100.1.1",
        "::1",
        "fe80::1%eth0",
        "fd7a:115c::1",
        "::ffff:192.168.1.1",
    ):
        assert _ask(gate, near) == (), near
    for far in ("8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8", "", "x"):
        refusal = _ask(gate, far)
        assert isinstance(refusal, ApiError), far
        assert (refusal.status, refusal.code) == (403, "foreign_client")
        assert "allowed_clients" in refusal.message


def test_other_clients_by_setting() -> None:
    assert _ask(Gate(clients=("any",)), "8.8.8.8") == ()
    office = Gate(clients=("private", "203.0.113.0/24"))
    assert _ask(office, "203.0.113.9") == ()
    assert _ask(office, "10.0.0.1") == ()
    assert isinstance(_ask(office, "203.0.114.1"), ApiError)
    assert isinstance(_ask(Gate(clients=("203.0.113.0/24",)), "10.0.0.1"), ApiError)


def test_two_hosts_are_refused() -> None:
    gate = Gate()
    assert gate([(b"host", b"herd"), (b"host", b"127.0.0.1")], "127.0.0.1") is TWO_HOSTS


def test_a_rebound_page_is_refused_though_its_origin_is_its_host() -> None:
    asked = {"host": "evil.example.com:11435", "origin": "http://evil.example.com:11435"}
    refusal = _ask(Gate(), **asked)
    assert isinstance(refusal, ApiError)
    assert refusal.code == "unknown_host"


def test_origins_as_ollama_and_as_set() -> None:
    gate = Gate(origins=("https://app.example.com",))
    assert _ask(gate, host="herd", origin="https://evil.example.com") is FOREIGN_ORIGIN
    assert _ask(gate, host="herd", origin="null") is FOREIGN_ORIGIN
    assert _ask(gate, host="herd", origin="http://[") is FOREIGN_ORIGIN
    for origin in ("http://localhost:3000", "http://herd", "https://app.example.com"):
        answer = _ask(gate, host="herd", origin=origin)
        assert isinstance(answer, list), origin
        assert (b"Access-Control-Allow-Origin", origin.encode()) in answer


def test_what_is_remembered_is_bounded() -> None:
    gate = Gate()
    for number in range(3 * REMEMBERED):
        _ask(gate, host=f"{number}.example.com")
    assert len(gate._hosts) <= REMEMBERED
