"""Opens the database: `<home>/herd.db` (SQLite) by default, PostgreSQL by URL.

The file is created for its owner only (0600): it holds the relay keys of the nodes. A file that
cannot be used is left as it is. All methods block and belong in worker threads, save `name`.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ollama_herd.store.errors import StoreError, StoreErrorKind, explained
from ollama_herd.store.migrate import migrate

FILE_NAME = "herd.db"

BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for another writer (a backup, the command line) before it fails."""

_WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""A log that grew under a long reader is cut back to this."""

_CHECKPOINT_PAGES = 4000
"""The log is copied into the database when it has so many, 32 MB: the ends of the tables are then
written once for thousands of traces. SQLite's own 1,000 cost a tenth more CPU a trace."""

_PAGE_BYTES = 8192
"""Of a new file. Traces have about 700 bytes: twice SQLite's default page wastes a tenth less of it
and takes a tenth less CPU to write."""

_CACHE_KIB = 8 * 1024
"""Pages kept by a connection: the ends of both trace indexes and what a filter walks."""


def open_database(url_or_home: str | Path) -> "Database":
    """The database, opened and migrated. Raises StoreError."""
    database = Database(url_or_home)
    database.engine()
    return database


class Database:
    """Opened at its first use, and again by the next one after a failure."""

    def __init__(self, url_or_home: str | Path, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """`url_or_home` is a folder or a URL (`postgresql://user@host/db`). Never fails."""
        self._asked = str(url_or_home)
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._file_id: tuple[int, int] | None = None
        self.path = None if "://" in self._asked else Path(self._asked).expanduser() / FILE_NAME
        if self._asked.startswith("sqlite:///"):
            self.path = Path(self._asked.removeprefix("sqlite:///")).expanduser()

    @property
    def name(self) -> str:
        """What to call the database in messages; without its password."""
        if self.path is not None:
            return str(self.path)
        try:
            return make_url(self._asked).render_as_string(hide_password=True)
        except ArgumentError:
            return "(a URL that cannot be read)"

    def engine(self) -> Engine:
        """Raises StoreError."""
        with self._lock:
            if self._engine is None:
                self._engine = self._opened()
            return self._engine

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction that ends with the block. Raises StoreError."""
        engine = self.engine()
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise explained(error, self.name) from error

    def size_bytes(self) -> int:
        """Of the database on disk with its log; 0 when that cannot be told. Raises StoreError."""
        if self.path is None:
            with self.transaction() as connection:
                query = text("SELECT pg_database_size(current_database())")
                return int(connection.execute(query).scalar_one())
        log = self.path.with_name(f"{self.path.name}-wal")
        return sum(_size_of(file) for file in (self.path, log))

    def was_replaced(self) -> bool:
        """Whether the open SQLite file is no longer the one at its path: moved away or deleted."""
        return self._file_id is not None and self._file_id != _identity(self.path)

    def close(self) -> None:
        """Let all connections go; the next use opens the database again."""
        with self._lock:
            engine, self._engine = self._engine, None
            self._file_id = None
        if engine is not None:
            engine.dispose()

    def _opened(self) -> Engine:
        engine: Engine | None = None
        try:
            engine = self._sqlite(self.path) if self.path is not None else _postgres(self._asked)
            migrate(engine, self.name, self.path)
            if self.path is not None:
                _log_ahead(engine)
            self._file_id = _identity(self.path)
        except StoreError:
            _dispose(engine)
            raise
        except (SQLAlchemyError, OSError) as error:
            _dispose(engine)
            raise explained(error, self.name) from error
        return engine

    def _sqlite(self, path: Path) -> Engine:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            connect_args={"timeout": self._busy_timeout_s, "check_same_thread": False},
        )
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        return engine


def _postgres(asked: str) -> Engine:
    try:
        url = make_url(asked)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        url = None
    if url is None or url.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise StoreError(
            StoreErrorKind.BAD_URL,
            "The database URL cannot be used: write a folder for SQLite or "
            "postgresql://user:password@host:5432/database.",
        )
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=4
        )
    except ImportError as error:
        raise StoreError(
            StoreErrorKind.DRIVER_MISSING,
            "PostgreSQL needs the extra 'postgres', which is not installed: run uv tool install "
            "'.[postgres]' or pip install '.[postgres]' in the checkout, or leave the URL out "
            "to use SQLite.",
        ) from error


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in _begin, not in the driver
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA page_size={_PAGE_BYTES}")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    cursor.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    cursor.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT_BYTES}")
    cursor.close()


def _log_ahead(engine: Engine) -> None:
    """Readers never wait for the writer. Kept in the file, hence set only once it is ours; a file
    system that cannot do it (some network shares) keeps the slower journal.
    """
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get("herd_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _identity(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _dispose(engine: Engine | None) -> None:
    if engine is not None:
        engine.dispose()
