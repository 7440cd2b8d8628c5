"""The history of health: every change of a finding, kept for HISTORY_S. Everything blocks."""

from collections.abc import Iterable

from sqlalchemy import delete, insert, select

from ollama_herd.clock import now_s
from ollama_herd.core.health.values import Severity, Transition
from ollama_herd.store.database import Database
from ollama_herd.store.labels import stored_text
from ollama_herd.store.schema import health_changes

HISTORY_S = 90 * 86400.0
"""A season: a change is a hundred bytes, and a herd makes a few a day."""

MAX_READ = 1000


class HealthStore:
    """Append and read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, changes: Iterable[Transition]) -> None:
        """Keep these, and let go of the oldest. Raises StoreError; nothing is kept then."""
        rows = [
            {
                "changed_at": change.time_s,
                "code": change.code,
                "subject": stored_text(change.subject),
                "name": stored_text(change.name),
                "severity_before": change.before.value,
                "severity_after": change.after.value,
                "seen": stored_text(change.seen),
            }
            for change in changes
        ]
        table = health_changes
        with self._database.transaction() as connection:
            if rows:
                connection.execute(insert(table), rows)
            connection.execute(delete(table).where(table.c.changed_at < now_s() - HISTORY_S))

    def recent(self, limit: int = 100) -> list[Transition]:
        """The newest first, at most MAX_READ. Raises StoreError."""
        table = health_changes
        query = (
            select(table)
            .order_by(table.c.changed_at.desc(), table.c.id.desc())
            .limit(min(limit, MAX_READ))
        )
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return [
            Transition(
                time_s=row.changed_at,
                code=row.code,
                subject=row.subject,
                name=row.name,
                before=_severity(row.severity_before),
                after=_severity(row.severity_after),
                seen=row.seen,
            )
            for row in rows
        ]


def _severity(text: str) -> Severity:
    """One that another version wrote and this one does not know is worth a look."""
    return Severity(text) if text in _KNOWN else Severity.WARNING


_KNOWN = frozenset(Severity)
