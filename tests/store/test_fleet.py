"""The last known fleet, who may speak for a node, and what was learned, over restarts."""

from pathlib import Path

import pytest

from ollama_herd.core.node import (
    EngineKind,
    EngineReport,
    Gpu,
    LoadedModel,
    Model,
    Node,
    NodeStatus,
    Vitals,
)
from ollama_herd.store.database import FILE_NAME, Database, open_database
from ollama_herd.store.errors import StoreError
from ollama_herd.store.fleet import FleetStore


def node(node_id: str, **changes) -> Node:
    values = {
        "name": node_id.upper(),
        "address": "10.0.0.5",
        "status": NodeStatus.ONLINE,
        "boot": 5,
        "seq": 7,
        "first_seen_s": 1.5,
        "last_report_s": 2.5,
        "relay_port": 11436,
        "relay_key": "k" * 32,
        "draining": True,
        "vitals": Vitals(memory_total_bytes=2**36, gpus=(Gpu(name="<b>M4</b>", unified=True),)),
        "engines": (
            EngineReport(
                engine_id="ollama-11434",
                kind=EngineKind.OLLAMA,
                port=11434,
                models=(Model(name="llama3.2:latest", weights="sha256:1"),),
                loaded=(LoadedModel(name="llama3.2:latest", context_length=8192),),
                slots=4,
            ),
        ),
        **changes,
    }
    return Node(node_id=node_id, **values)


def test_the_fleet_comes_back(database: Database) -> None:
    fleet = FleetStore(database)
    known = [node("a"), node("b"), node("\x00odd'; --")]
    if database.path is None:
        known.pop()  # PostgreSQL refuses NUL; ids are checked where reports come in
    fleet.save(known)
    assert sorted(FleetStore(database).load(), key=lambda n: n.node_id) == sorted(
        known, key=lambda n: n.node_id
    )


def test_the_latest_save_wins(database: Database) -> None:
    fleet = FleetStore(database)
    fleet.save([node("a", seq=1), node("b", seq=1)])
    fleet.save([node("a", seq=2)])
    assert {n.node_id: n.seq for n in fleet.load()} == {"a": 2, "b": 1}
    fleet.save([])
    assert len(fleet.load()) == 2


def test_the_first_key_is_bound(database: Database) -> None:
    fleet = FleetStore(database)
    assert fleet.load() == []
    assert fleet.bind("a", "hash-1") is True
    assert fleet.bind("a", "hash-1") is True
    assert fleet.bind("a", "hash-2") is False
    assert fleet.bind("b", "hash-2") is True
    fleet.save([node("a")])

    after_restart = FleetStore(database)
    after_restart.load()
    assert after_restart.bind("a", "hash-2") is False
    assert after_restart.bind("a", "hash-1") is True
    assert after_restart.bind("b", "hash-1") is False


def test_forgetting_frees_the_name(database: Database) -> None:
    fleet = FleetStore(database)
    fleet.bind("a", "hash-1")
    fleet.save([node("a"), node("b")])
    fleet.forget("a")
    assert fleet.bind("a", "hash-2") is True
    fleet.save([node("b")])
    after_restart = FleetStore(database)
    assert [n.node_id for n in after_restart.load()] == ["b"]
    assert after_restart.bind("a", "hash-1") is False
    fleet.forget("never-known")


def test_a_binding_in_the_database_wins(tmp_path: Path) -> None:
    """A router that could not read the database at start may have believed someone else."""
    before = open_database(tmp_path)
    earlier = FleetStore(before)
    earlier.bind("a", "owner")
    earlier.save([])
    before.close()
    file, away = tmp_path / FILE_NAME, tmp_path / "away"
    file.rename(away)
    file.write_bytes(b"not a database " * 100)

    database = Database(tmp_path)
    fleet = FleetStore(database)
    with pytest.raises(StoreError):
        fleet.load()
    assert fleet.bind("a", "thief") is True  # the herd goes on without its memory
    assert fleet.bind("new", "newcomer") is True
    with pytest.raises(StoreError):
        fleet.save([node("new")])
    away.replace(file)
    fleet.save([node("new")])
    assert fleet.bind("a", "thief") is False
    assert fleet.bind("a", "owner") is True
    again = FleetStore(database)
    again.load()
    assert again.bind("new", "thief") is False
    database.close()


def test_two_routers_agree_on_a_key(postgres_url: str) -> None:
    databases = [Database(postgres_url) for _ in range(2)]
    one, two = (FleetStore(database) for database in databases)
    assert one.bind("a", "first") is True
    assert two.bind("a", "second") is True
    one.save([])
    two.save([])
    assert two.bind("a", "second") is False
    assert two.bind("a", "first") is True
    for database in databases:
        database.close()


def test_a_node_of_another_version_is_left_out(database: Database) -> None:
    fleet = FleetStore(database)
    fleet.save([node("a"), node("b")])
    with database.transaction() as connection:
        query = "UPDATE nodes SET body = '{\"novel\": 1}' WHERE node_id = 'a'"
        connection.exec_driver_sql(query)
    assert [n.node_id for n in fleet.load()] == ["b"]


def test_what_was_learned_comes_back(database: Database) -> None:
    fleet = FleetStore(database)
    assert fleet.load_learned("predictor") is None
    fleet.save_learned("predictor", b"\x00\xff{}")
    fleet.save_learned("predictor", b"\x00\xfe[]")
    assert fleet.load_learned("predictor") == b"\x00\xfe[]"
    assert fleet.load_learned("other") is None
