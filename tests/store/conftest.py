"""Databases for tests. Those that ask for `database` run on SQLite and on PostgreSQL."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_herd.store.database import Database
from ollama_herd.store.expiry import Retention
from ollama_herd.store.traces import TraceStore, open_traces

KEEP_ALL = Retention(days=0, max_rows=0)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["object"]:
    if sys.platform == "win32":
        pytest.skip("the test server is started on a socket, which Windows' psycopg does not have")
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    from tests.store import postgres  # noqa: PLC0415 - needs psycopg

    folder = postgres.programs()
    if folder is None:
        pytest.skip("PostgreSQL's initdb is neither on the PATH nor under /usr/lib/postgresql")
    with postgres.running(folder) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server) -> str:
    return postgres_server.new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Folder or URL of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "home")
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    opened = Database(address)
    yield opened
    opened.close()  # after the store, which opens it


@pytest.fixture
def store(database: Database) -> Iterator[TraceStore]:
    """Keeps everything."""
    running = open_traces(database, KEEP_ALL)
    yield running
    running.close()
