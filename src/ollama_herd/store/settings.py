"""Settings changed while the router ran, and the record of who changed what. Everything blocks."""

import msgspec
from sqlalchemy import delete, insert, select

from ollama_herd.clock import now_s
from ollama_herd.store.database import Database
from ollama_herd.store.fleet import insert_into
from ollama_herd.store.labels import stored_text
from ollama_herd.store.schema import setting_changes, settings

MAX_READ = 1000


class SettingChange(msgspec.Struct, frozen=True):
    """One change; values are JSON text, "" where the setting went back to what is configured.

    `who` is the name of an API key, else an address. `time_s` is seconds since 1970.
    """

    time_s: float
    name: str
    before: str
    after: str
    who: str


class SettingStore:
    """A row a setting; nothing is ever taken out of the record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> dict[str, str]:
        """JSON texts by name. Raises StoreError."""
        with self._database.transaction() as connection:
            return {row.name: row.value for row in connection.execute(select(settings))}

    def keep(self, name: str, before: str, after: str, who: str) -> None:
        """Keep a value (JSON text; "" takes it out) and that it was changed; both or neither.

        Raises StoreError.
        """
        now = now_s()
        with self._database.transaction() as connection:
            connection.execute(delete(settings).where(settings.c.name == name))
            if after:
                row = {"name": name, "value": after, "changed_at": now}
                connection.execute(insert_into(connection, settings), row)
            change = {
                "changed_at": now,
                "name": name,
                "value_before": before,
                "value_after": after,
                "who": stored_text(who),
            }
            connection.execute(insert(setting_changes), change)

    def recent(self, limit: int = 100) -> list[SettingChange]:
        """The newest first, at most MAX_READ. Raises StoreError."""
        table = setting_changes
        query = select(table).order_by(table.c.id.desc()).limit(min(limit, MAX_READ))
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return [
            SettingChange(row.changed_at, row.name, row.value_before, row.value_after, row.who)
            for row in rows
        ]
