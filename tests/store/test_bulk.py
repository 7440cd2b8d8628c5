"""Statements of many rows, also where SQLite allows few parameters."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert

from ollama_herd.store.bulk import ROWS_PER_CALL, BulkInsert
from ollama_herd.store.database import Database, open_database
from ollama_herd.store.rows import ROW_COLUMNS
from ollama_herd.store.schema import labels, traces

COLUMNS = ("id", "space", "text")


@pytest.mark.parametrize("count", [0, 1, 19, 20, ROWS_PER_CALL[0], 2 * ROWS_PER_CALL[0] + 33])
def test_every_row_is_inserted_once_and_in_order(database: Database, count: int) -> None:
    bulk = BulkInsert(database.engine(), insert(labels), COLUMNS)
    rows = [(n + 1, 0, f"text ?, (%s) {n}") for n in range(count)]
    with database.transaction() as connection:
        bulk(connection, [value for row in rows for value in row])
        found = connection.exec_driver_sql("SELECT id, space, text FROM labels ORDER BY id").all()
    assert [tuple(row) for row in found] == rows


def test_an_old_sqlite_gets_fewer_rows_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(tmp_path)
    engine = database.engine()
    engine.dispose()

    def limited(connection: Any, _record: object) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)

    event.listen(engine, "connect", limited)
    row = [0 if name.endswith("_label") else 1 for name in ROW_COLUMNS]
    new = BulkInsert(engine, insert(traces), ROW_COLUMNS)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    old = BulkInsert(engine, insert(traces), ROW_COLUMNS)
    with engine.begin() as connection:
        with pytest.raises(Exception, match="too many SQL variables"):
            new(connection, row * ROWS_PER_CALL[0])
        old(connection, row * 333)
        assert connection.exec_driver_sql("SELECT count(*) FROM traces").scalar() == 333
    database.close()


def test_columns_out_of_order_are_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="order of the table"):
        BulkInsert(database.engine(), insert(labels), ("text", "space", "id"))
