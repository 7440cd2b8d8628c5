"""From each older schema with data in every table to this one: nothing is lost or changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from ollama_herd.store import migrate
from ollama_herd.store.database import Database, open_database
from ollama_herd.store.expiry import Retention
from ollama_herd.store.fleet import FleetStore
from ollama_herd.store.schema import metadata
from ollama_herd.store.traces import open_traces
from tests.store import samples
from tests.store.test_fleet import node
from tests.store.waiting import wait_until

SCRIPTS = Path(migrate.__file__).parent / "migrations"
OLDER = [f"{number:04}" for number in range(1, int(migrate.HEAD))]
KEEP_ALL = Retention(days=0, max_rows=0)


def as_it_was(version: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The store knows no migration after `version`."""
    (folder / "versions").mkdir(parents=True)
    shutil.copy(SCRIPTS / "env.py", folder)
    for script in (SCRIPTS / "versions").glob("v*"):
        if script.name[1:5] <= version:
            shutil.copy(script, folder / "versions")
    patch.setattr(migrate, "HEAD", version)
    patch.setattr(migrate, "_SCRIPTS", folder)


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in every table, and in the view for people."""
    with database.transaction() as connection:
        seen = inspect(connection)
        names = {*seen.get_table_names(), *seen.get_view_names()} - {migrate.VERSION_TABLE}
        return {
            name: sorted(map(tuple, connection.execute(text(f"SELECT * FROM {name}"))), key=repr)  # noqa: S608
            for name in names
        }


def fill(database: Database) -> str:
    """A row at least in each table there is; the id of a trace."""
    fleet = FleetStore(database)
    fleet.load()
    assert fleet.bind("a", "hash-of-a-key")
    fleet.save([node("a")])
    fleet.save_learned("rates", b"{}")
    traces = open_traces(database, KEEP_ALL)
    put = [samples.trace(), samples.trace(status=502, error="upstream_failed")]
    for trace in put:
        traces.put(trace)
    wait_until(lambda: traces.health().written == len(put))
    traces.close()
    with database.transaction() as connection:
        for name in set(inspect(connection).get_table_names()) & set(metadata.tables):
            table = metadata.tables[name]
            if connection.execute(table.select().limit(1)).first() is None:
                values = {
                    column.name: {str: "x", bytes: b"x"}.get(column.type.python_type, 7)
                    for column in table.columns
                }
                connection.execute(table.insert(), values)
    return put[0].request.request_id


@pytest.mark.parametrize("version", OLDER)
def test_an_older_database_keeps_everything(
    version: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        as_it_was(version, tmp_path / "scripts", patch)
        old = Database(address)
        request_id = fill(old)
        before = rows(old)
        old.close()
    assert all(before.values())

    new = open_database(address)
    after = rows(new)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name not in before} == {
        name for name in metadata.tables if name not in before
    }
    assert [one.node_id for one in FleetStore(new).load()] == ["a"]
    traces = open_traces(new, KEEP_ALL)
    kept = traces.get(request_id)
    assert kept is not None
    assert kept.status == 200
    traces.close()
    new.close()
