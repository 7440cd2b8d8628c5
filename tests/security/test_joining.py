"""Nobody becomes a node who should not, and nobody speaks for another one."""

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from ollama_herd.api.joining import JoinMode
from ollama_herd.core.access import JoinKey, NodeRule
from ollama_herd.core.fleet import engine_endpoint
from ollama_herd.core.node import NodeReport, Reach
from ollama_herd.router.admission import (
    NODES_PER_ADDRESS,
    PENDING_MOST,
    REMEMBERED_MOST,
    Admission,
    ReportRefused,
    claim_of,
)
from ollama_herd.router.registry import Registry
from ollama_herd.store.access import AccessStore
from ollama_herd.store.database import Database
from ollama_herd.store.fleet import FleetStore
from tests.core.fleets import engine, report
from tests.security.conftest import Target
from tests.security.test_keys import cli

LAN, FAR = "192.168.1.20", "203.0.113.9"


@pytest.fixture
def store(tmp_path: Path) -> FleetStore:
    return FleetStore(Database(tmp_path))


def registry(store: FleetStore, mode: JoinMode = JoinMode.AUTO, max_nodes: int = 100) -> Registry:
    admission = Admission(mode, is_bound=store.is_bound, bind=store.bind, max_nodes=max_nodes)
    return Registry(2.0, admission)


def say(
    herd: Registry, node_id: str = "a", key: str = "k", address: str = LAN, **more: str | int
) -> bool:
    """One full report; whether it was taken in. Raises ReportRefused."""
    join_key = str(more.pop("join_key", ""))
    said = report(node_id, [engine([])], **{"seq": 1, **more})
    return herd.report(said, claim_of(said, address, key, join_key)).accepted


def refused(herd: Registry, *words: str, code: str, **more: str | int) -> str:
    with pytest.raises(ReportRefused) as turned:
        say(herd, *words, **more)
    assert turned.value.code == code
    assert herd.admission.refused[code] >= 1
    assert herd.admission.turned()[0].code == code
    return str(turned.value)


# --- identity ----------------------------------------------------------------------------------


def test_a_taken_identity_stays_taken(store: FleetStore) -> None:
    herd = registry(store)
    assert say(herd, "a", "first")
    before = herd.fleet.nodes["a"]
    assert "node.json" in refused(herd, "a", "second", "192.168.1.66", code="wrong_key", seq=9)
    refused(herd, "a", "", LAN, code="wrong_key", seq=9)
    assert herd.fleet.nodes["a"] is before  # its address above all


def test_replayed_and_stale_reports_change_nothing(store: FleetStore) -> None:
    herd = registry(store)
    say(herd, seq=5)
    before = herd.fleet
    for seq in (5, 4, 1):
        assert not say(herd, seq=seq, address="192.168.1.66")
    assert herd.fleet is before
    assert herd.admission.refused["stale"] == 3


def test_a_report_names_no_host(store: FleetStore) -> None:
    """The engine is reached where the report came from, through the relay or at its port."""
    herd = registry(store)
    raw = {
        "node_id": "a",
        "boot": 1,
        "seq": 1,
        "address": "169.254.169.254",
        "host": "169.254.169.254",
        "engines": [
            {
                "engine_id": "ollama-80",
                "kind": "ollama",
                "port": 80,
                "reach": "lan",
                "url": "http://169.254.169.254:80",
                "host": "169.254.169.254",
                "endpoint": {"host": "169.254.169.254", "port": 80},
            }
        ],
        "platform": {},
        "vitals": {},
    }
    said = msgspec.json.decode(json.dumps(raw), type=NodeReport)
    herd.report(said, claim_of(said, LAN, "k"))
    node = herd.fleet.nodes["a"]
    for reach in Reach:
        found = engine_endpoint(node, msgspec.structs.replace(node.engines[0], reach=reach))
        assert found.host == LAN


# --- joining -----------------------------------------------------------------------------------


def test_private_networks_join_by_themselves_and_no_other(store: FleetStore) -> None:
    herd = registry(store)
    assert say(herd, "a", address=LAN)
    assert say(herd, "b", address="127.0.0.1")
    assert "--join key" in refused(herd, "c", "k", FAR, code="not_private")
    assert not store.is_bound("c")
    assert say(herd, "a", address=FAR, seq=2)  # known, and moved: allowed_clients decides


def test_join_key(store: FleetStore) -> None:
    herd = registry(store, JoinMode.KEY)
    key_hash = hashlib.sha256(b"join_good").hexdigest()
    for wrong in ("", "join_bad", key_hash):
        assert "herd nodes join" in refused(herd, code="join_key", join_key=wrong)
    herd.admission.take([JoinKey(key_hash)], [])
    for wrong in ("", "join_bad", key_hash, "\u00e9"):
        refused(herd, code="join_key", join_key=wrong)
    assert say(herd, join_key="join_good")
    herd.admission.take([JoinKey("other")], [])  # rotated
    assert say(herd, seq=2)  # who is in needs it no more
    refused(herd, "b", code="join_key", join_key="join_good")
    assert say(herd, "c", address="127.0.0.1")  # this machine is always open


def test_approval(store: FleetStore) -> None:
    herd = registry(store, JoinMode.APPROVE)
    assert "herd nodes approve a" in refused(herd, "a", "real", code="waits")
    refused(herd, "a", "thief", code="waits")  # shows another key for the same id
    assert [one.claim.node_id for one in herd.admission.pending()] == ["a"]
    assert herd.admission.approve("nobody") is None
    assert herd.admission.approve("a") is not None
    refused(herd, "a", "thief", code="wrong_key")  # the first key is the one that was approved
    assert say(herd, "a", "real")
    assert not herd.admission.pending()


def test_a_flood_is_bounded_and_locks_nobody_out(store: FleetStore) -> None:
    herd = registry(store, max_nodes=50)
    for number in range(3 * NODES_PER_ADDRESS):
        if number < NODES_PER_ADDRESS:
            say(herd, f"fake-{number}", address="192.168.1.66")
        else:
            refused(herd, f"fake-{number}", "k", "192.168.1.66", code="too_many_here")
    assert say(herd, "honest")
    for number in range(200):
        try:
            say(herd, f"more-{number}", address=f"10.0.0.{number}")
        except ReportRefused as turned:
            assert turned.code == "too_many_nodes"  # noqa: PT017 - some are taken
    assert len(herd.fleet.nodes) == 50
    assert len(store._keys) == 50
    assert say(herd, "honest", seq=2)
    assert len(herd.admission.turned()) <= REMEMBERED_MOST


def test_a_flood_of_waiting_nodes_is_bounded(store: FleetStore) -> None:
    herd = registry(store, JoinMode.APPROVE)
    for number in range(3 * PENDING_MOST):
        refused(herd, f"fake-{number}", code="waits")
    assert len(herd.admission.pending()) == PENDING_MOST
    assert not store._keys


def test_a_banned_node_stays_out_with_its_own_key(store: FleetStore) -> None:
    herd = registry(store)
    say(herd)
    herd.admission.take([], [NodeRule("a", is_banned=True)])
    assert "unban" in refused(herd, code="banned", seq=2)
    herd.admission.take([], [])
    assert say(herd, seq=3)


# --- on a running herd -------------------------------------------------------------------------


def test_rename_ban_and_unban(target: Target) -> None:
    herd = target.herd
    node = herd.node("a")
    assert node is not None
    node_id = node["node_id"]
    assert target.call("POST", "/fleet/nodes/a/rename", {"name": "studio"}).status == 200
    assert target.call("GET", "/fleet/nodes/studio").json()["node_id"] == node_id, "at once"
    for wrong in ({"name": "x" * 200}, {"name": "\x00"}, {}, []):
        assert target.call("POST", "/fleet/nodes/studio/rename", wrong).status == 400
    assert target.call("POST", "/fleet/nodes/studio/rename", {"name": ""}).status == 200
    herd.wait_node("a", "online")
    assert target.call("POST", "/fleet/nodes/a/ban").status == 200
    assert not herd.status()["nodes"]
    herd.wait_status(
        lambda _: target.call("GET", "/fleet/joining").json()["refused"].get("banned", 0) > 0,
        "a refused report",
    )
    assert target.call("POST", f"/fleet/nodes/{node_id}/unban").status == 200
    herd.wait_node("a", "online", timeout_s=40)
    assert target.call("POST", f"/fleet/nodes/{node_id}/unban").status == 404
    assert target.call("POST", "/fleet/nodes/a/approve").status == 404


@pytest.mark.parametrize("path", ["drain", "undrain", "ban", "rename", "approve"])
def test_pages_of_others_change_no_node(target: Target, path: str) -> None:
    for origin in ("http://evil.example.com", "http://localhost:3000"):
        answer = target.call("POST", f"/fleet/nodes/a/{path}", b"{}", Origin=origin)
        assert (answer.status, answer.body) == (403, b"")
    assert target.call("DELETE", "/fleet/nodes/a", Origin="http://evil.example.com").status == 403


def test_join_commands_are_printed_once_and_rotate(tmp_path: Path) -> None:
    first = cli(tmp_path, "join", group="nodes").strip().splitlines()[-1]
    assert first.startswith("herd-node --router http://")
    second = cli(tmp_path, "join", group="nodes").strip().splitlines()[-1]
    store = AccessStore(database := Database(tmp_path), tmp_path)
    kept = {one.key_hash for one in store.load().join_keys}
    shown = [line.split()[-1] for line in (first, second)]
    assert kept == {hashlib.sha256(key.encode()).hexdigest() for key in shown}
    third = cli(tmp_path, "join", "--rotate", group="nodes").strip().splitlines()[-1].split()[-1]
    assert [one.key_hash for one in store.load().join_keys] == [
        hashlib.sha256(third.encode()).hexdigest()
    ]
    database.close()


def test_joining_with_keys_and_the_command_line(target: Target) -> None:
    url = f"http://127.0.0.1:{target.herd.port}"
    at = ("--router", url)
    shown = json.loads(cli(None, "waiting", *at, "--json", group="nodes").splitlines()[-1])
    assert shown["mode"] == "auto"
    assert "no machine waits" in cli(None, "waiting", *at, group="nodes")
    assert "is called" in cli(None, "rename", "a", "b", *at, group="nodes")
    target.herd.wait_node("b", "online")
    cli(None, "rename", "b", "", *at, group="nodes")
    target.herd.wait_node("a", "online")
    assert "404" in cli(None, "approve", "nobody", *at, group="nodes", code=1)
