"""What the router knows of its nodes, kept over a restart: reports, bound keys, what it learned.

`bind` works in memory and is safe on the event loop, also while the database is away; `save`
writes new bindings together with the nodes. Every other method blocks: call it in a worker thread.
"""

import hmac
import threading
from collections.abc import Iterable

import msgspec
import structlog
from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from ollama_herd.clock import now_s
from ollama_herd.core.node import Node
from ollama_herd.store.database import Database
from ollama_herd.store.schema import learned, node_keys, nodes

_log = structlog.get_logger(__name__)


class FleetStore:
    """Call `load` once at start, `save` whenever the fleet changed (at most every few seconds)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[str, str] = {}
        self._unsaved: set[str] = set()
        self._keys_loaded = False
        self._writing = threading.Lock()

    def load(self) -> list[Node]:
        """The last known nodes, and the bound keys for `bind`. Raises StoreError.

        After a failure the keys are read by the next `save`. A node that another version wrote and
        that cannot be read is left out (it reports again by itself).
        """
        with self._writing, self._database.transaction() as connection:
            self._load_keys(connection)
            rows = connection.execute(select(nodes).order_by(nodes.c.node_id)).all()
        found = []
        for row in rows:
            try:
                found.append(msgspec.json.decode(row.body, type=Node))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                _log.warning("saved node cannot be read", node=row.node_id, reason=str(error))
        return found

    def save(self, known: Iterable[Node]) -> None:
        """Keep these nodes, and the bindings made since the last time. Raises StoreError.

        Nodes that are not named stay as they are; `forget` removes one.
        """
        saved_at = now_s()
        rows = [
            {"node_id": node.node_id, "body": msgspec.json.encode(node), "saved_at": saved_at}
            for node in known
        ]
        with self._writing, self._database.transaction() as connection:
            new = {node_id: self._keys[node_id] for node_id in self._unsaved & self._keys.keys()}
            bound = [
                {"node_id": node_id, "key_hash": key_hash, "bound_at": saved_at}
                for node_id, key_hash in sorted(new.items())
            ]
            if bound:
                insert = insert_into(connection, node_keys).on_conflict_do_nothing()
                connection.execute(insert, bound)
            if bound or not self._keys_loaded:
                self._load_keys(connection)
            if rows:
                insert = insert_into(connection, nodes)
                replacing = insert.on_conflict_do_update(
                    index_elements=[nodes.c.node_id],
                    set_={"body": insert.excluded.body, "saved_at": insert.excluded.saved_at},
                )
                connection.execute(replacing, sorted(rows, key=lambda row: str(row["node_id"])))
        self._unsaved -= new.keys()

    def bind(self, node_id: str, key_hash: str) -> bool:
        """Whether `node_id` may speak with this key: it is bound to it, or to none so far (and is
        from now on). Safe on the event loop, never fails.

        A binding that is in the database already wins over one made while it was away.
        """
        bound = self._keys.get(node_id)
        if bound is None:
            self._keys[node_id] = key_hash
            self._unsaved.add(node_id)
            return True
        return hmac.compare_digest(bound.encode(), key_hash.encode())

    def rebind(self, node_id: str, old_hash: str, new_hash: str) -> bool:
        """Bind a node to another key in place of its own; False when the old one is not its own.

        It is on the disk when this returns. Raises StoreError; the old key holds then.
        """
        with self._writing:
            with self._database.transaction() as connection:
                self._load_keys(connection)
                if not hmac.compare_digest(self._keys.get(node_id, "").encode(), old_hash.encode()):
                    return False
                insert = insert_into(connection, node_keys)
                replacing = insert.on_conflict_do_update(
                    index_elements=[node_keys.c.node_id],
                    set_={
                        "key_hash": insert.excluded.key_hash,
                        "bound_at": insert.excluded.bound_at,
                    },
                )
                bound = {"node_id": node_id, "key_hash": new_hash, "bound_at": now_s()}
                connection.execute(replacing, bound)
            self._keys[node_id] = new_hash
            self._unsaved.discard(node_id)
        return True

    def is_bound(self, node_id: str) -> bool:
        """Whether a key speaks for the node. Safe on the event loop."""
        return node_id in self._keys

    def forget(self, node_id: str) -> None:
        """Drop a node and its binding: the next who comes with this name is taken for it.

        Raises StoreError; nothing is forgotten then.
        """
        with self._writing:
            with self._database.transaction() as connection:
                connection.execute(delete(nodes).where(nodes.c.node_id == node_id))
                connection.execute(delete(node_keys).where(node_keys.c.node_id == node_id))
            self._keys.pop(node_id, None)
            self._unsaved.discard(node_id)

    def save_learned(self, name: str, body: bytes) -> None:
        """Keep the state of a predictor under its name. Raises StoreError."""
        with self._database.transaction() as connection:
            insert = insert_into(connection, learned)
            replacing = insert.on_conflict_do_update(
                index_elements=[learned.c.name],
                set_={"body": insert.excluded.body, "saved_at": insert.excluded.saved_at},
            )
            connection.execute(replacing, {"name": name, "body": body, "saved_at": now_s()})

    def load_learned(self, name: str) -> bytes | None:
        """What `save_learned` kept, None when there is nothing. Raises StoreError."""
        with self._database.transaction() as connection:
            query = select(learned.c.body).where(learned.c.name == name)
            body = connection.execute(query).scalar()
        return None if body is None else bytes(body)

    def _load_keys(self, connection: Connection) -> None:
        stored = {row.node_id: row.key_hash for row in connection.execute(select(node_keys))}
        self._keys.update(stored)
        self._keys_loaded = True


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
