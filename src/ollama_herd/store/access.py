"""Who may do what, as it is kept: API keys, join keys, and what was decided about nodes.

The command line writes while the router runs; the router reads again every few seconds. All
methods block: call them in a worker thread.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Row, delete, select

from ollama_herd.clock import now_s
from ollama_herd.core.access import Access, ApiKey, JoinKey, NodeRule
from ollama_herd.store.database import Database
from ollama_herd.store.errors import StoreError, StoreErrorKind
from ollama_herd.store.fleet import insert_into
from ollama_herd.store.schema import access

_log = structlog.get_logger(__name__)

_KIND_OF = {ApiKey: "api_key", JoinKey: "join_key", NodeRule: "node"}

MARKER = "keys.on"
"""Lies in the home folder while there are API keys: a database that cannot be read must not open
the door."""

_SAID = "API keys are asked for. This file is kept by herd; 'herd keys off' removes it.\n"

_E = TypeVar("_E", ApiKey, JoinKey, NodeRule)


class AccessStore:
    """One row an entry, its body as JSON, so that a new field needs no migration."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database = database
        self._marker = home / MARKER

    def load(self) -> Access:
        """Everything. Raises StoreError, also for an entry that cannot be read: a key or a ban must
        not disappear because a newer version wrote it.
        """
        keys: list[ApiKey] = []
        join_keys: list[JoinKey] = []
        nodes: list[NodeRule] = []
        with self._database.transaction() as connection:
            rows = connection.execute(select(access).order_by(access.c.kind, access.c.id)).all()
        for row in rows:
            if row.kind == "api_key":
                keys.append(self._read(row, ApiKey))
            elif row.kind == "join_key":
                join_keys.append(self._read(row, JoinKey))
            elif row.kind == "node":
                nodes.append(self._read(row, NodeRule))
        self._mark(are_needed=bool(keys))
        return Access(tuple(keys), tuple(join_keys), tuple(nodes))

    @property
    def were_keys_needed(self) -> bool:
        """Whether there were API keys when the database could be read last, told without it."""
        return self._marker.exists()

    def put(self, entry_id: str, entry: ApiKey | JoinKey | NodeRule) -> None:
        """Keep an entry, in place of the one with its id. Raises StoreError."""
        with self._database.transaction() as connection:
            insert = insert_into(connection, access)
            replacing = insert.on_conflict_do_update(
                index_elements=[access.c.kind, access.c.id],
                set_={"body": insert.excluded.body, "changed_at": insert.excluded.changed_at},
            )
            values = {
                "kind": _KIND_OF[type(entry)],
                "id": entry_id,
                "body": msgspec.json.encode(entry),
                "changed_at": now_s(),
            }
            connection.execute(replacing, values)

    def _read(self, row: Row[Any], kind: type[_E]) -> _E:
        try:
            return msgspec.json.decode(row.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(
                StoreErrorKind.DAMAGED,
                f"The database {self._database.name} holds a {row.kind} ({row.id}) that cannot be "
                f"read ({error}). It was left as it is; upgrade ollama-herd, or make it anew.",
            ) from error

    def _mark(self, *, are_needed: bool) -> None:
        try:
            if not are_needed:
                self._marker.unlink(missing_ok=True)
            elif not self._marker.exists():
                self._marker.write_text(_SAID, encoding="utf-8")
        except OSError as error:
            _log.warning("the home folder cannot be written", reason=error.strerror)

    def drop(self, kind: type[ApiKey | JoinKey | NodeRule], entry_id: str | None = None) -> None:
        """Remove one entry of a kind, or all of them. Raises StoreError."""
        statement = delete(access).where(access.c.kind == _KIND_OF[kind])
        if entry_id is not None:
            statement = statement.where(access.c.id == entry_id)
        with self._database.transaction() as connection:
            connection.execute(statement)


def new_key() -> tuple[str, str, str]:
    """A fresh key: its public id, the key itself, and its hash to keep."""
    key_id = secrets.token_hex(4)
    key = f"herd_{key_id}_{secrets.token_urlsafe(32)}"
    return key_id, key, hashlib.sha256(key.encode()).hexdigest()
