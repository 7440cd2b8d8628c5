"""Brings a database to the schema of this version: forward only, one transaction, backup first.

Alembic is loaded only when there is something to migrate, which keeps an ordinary start quick.
"""

import datetime as dt
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine, inspect, text

from ollama_herd import __version__
from ollama_herd.clock import now_s
from ollama_herd.store.errors import StoreError, StoreErrorKind

HEAD = "0004"
"""The newest migration (a test compares it with the scripts)."""

VERSION_TABLE = "herd_schema"
"""Not Alembic's default: a PostgreSQL database may be shared with another program's Alembic."""

_SCRIPTS = Path(__file__).parent / "migrations"

_ADVISORY_LOCK = 0x0_11A_4E2D
"""Any number that other programs on the same PostgreSQL do not use; held while migrating."""

_log = structlog.get_logger(__name__)


def migrate(engine: Engine, name: str, path: Path | None) -> None:
    """Migrate the database called `name`; `path` is the SQLite file, None for a server.

    Raises StoreError for a database that a newer version or another program wrote, and
    SQLAlchemyError or OSError when it cannot be read or written; nothing is changed then.
    """
    with engine.connect() as connection:
        found = _version(connection, name, is_file=path is not None)
    if found == HEAD:
        return
    if found and path is not None:
        _back_up(path, found)
    locking = engine.connect().execution_options(herd_begin="IMMEDIATE")
    with locking as connection, connection.begin():
        if path is None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _ADVISORY_LOCK})
        found = _version(connection, name, is_file=path is not None)
        if found == HEAD:  # another process was quicker
            return
        _upgrade(connection)
    _log.info("database migrated", database=name, before=found or "empty", now=HEAD)


def _version(connection: Connection, name: str, *, is_file: bool) -> str:
    """The schema's version, "" for an empty database."""
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE not in tables:
        if tables and is_file:
            raise StoreError(
                StoreErrorKind.FOREIGN,
                f"The database {name} belongs to another program (it has no table "
                f"{VERSION_TABLE}). It was left as it is; name another one.",
            )
        return ""
    query = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
    found = str(connection.execute(query).scalar() or "")
    if found > HEAD:
        raise StoreError(
            StoreErrorKind.NEWER,
            f"The database {name} was written by a newer Ollama Herd (schema {found}; version "
            f"{__version__} knows up to {HEAD}). Upgrade ollama-herd, or use another home.",
        )
    return found


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - costs a quarter of a second, seldom needed
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _back_up(path: Path, version: str) -> None:
    """A copy beside the file, complete even while others write; never over an older copy."""
    day = dt.datetime.fromtimestamp(now_s(), dt.UTC).strftime("%Y%m%d-%H%M%S")
    copy = path.with_name(f"{path.name}.schema-{version}.{day}.backup")
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    _log.warning(
        "database backed up before its migration; delete the copy when you are content",
        copy=str(copy),
    )
