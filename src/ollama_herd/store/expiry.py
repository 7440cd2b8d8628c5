"""Deletes old traces, as configured and announced in the log; belongs to the writer thread.

One step deletes few rows in one short transaction, so new traces never wait long behind it.
"""

import msgspec
import structlog
from sqlalchemy import Connection, Engine, delete, func, select, text, union

from ollama_herd.clock import now_s
from ollama_herd.store.schema import labels, traces, trend_ttfts, trends

STEP_ROWS = 500
"""Rows a step: a few milliseconds."""

MINUTE_TRENDS_S = 2 * 86400.0
"""Minutes are looked at for today and yesterday; hours are kept as long as HOUR_TRENDS_S."""

HOUR_TRENDS_S = 400 * 86400.0
"""A year and a month, to compare with the year before. Counts only: a few MB a year."""

SAMPLED_ROWS = 1000
"""PostgreSQL's files do not tell how much of them is in use; so many rows tell their own size."""

INDEX_BYTES = 120
"""A trace's entries in both indexes of PostgreSQL (measured: 118)."""

PRUNED_LABELS = 10_000
"""Below so many labels (about 1 MB) it is not worth reading all traces to find unused ones."""

_log = structlog.get_logger(__name__)


class Retention(msgspec.Struct, frozen=True):
    """What to keep: traces younger than `days`, and the newest `max_rows` of them that take no more
    than `max_bytes` on disk, about; 0 sets no such limit.

    Trends by the hour are kept for HOUR_TRENDS_S or `days`, whichever is longer.
    """

    days: float = 30.0
    max_rows: int = 2_000_000
    max_bytes: int = 0


class Expiry:
    """`look()` finds out what is too much, `step()` deletes some of it, `finish()` sweeps up."""

    def __init__(self, engine: Engine, retention: Retention) -> None:
        self._engine = engine
        self.retention = retention
        self._oldest_s = float("-inf")
        self._excess = 0
        self._deleted = 0

    def look(self) -> None:
        """Count what has to go and announce it. Raises SQLAlchemyError."""
        with self._engine.begin() as connection:
            total = connection.execute(select(func.count()).select_from(traces)).scalar_one()
            aged = 0
            if self.retention.days > 0:
                self._oldest_s = now_s() - self.retention.days * 86400.0
                aged = connection.execute(
                    select(func.count()).where(traces.c.started_at < self._oldest_s)
                ).scalar_one()
            most = self._most_rows(connection, total)
            if most is not None:
                self._excess = max(0, total - aged - most)
            self._delete_old_trends(connection)
        if aged or self._excess:
            _log.info(
                "deleting old traces",
                older_than_days=self.retention.days,
                too_old=aged,
                max_rows=self.retention.max_rows,
                max_bytes=self.retention.max_bytes,
                too_many=self._excess,
                kept=total - aged - self._excess,
            )

    def _most_rows(self, connection: Connection, total: int) -> int | None:
        """How many traces may be kept, None when there is no limit."""
        retention = self.retention
        limits = [retention.max_rows] if retention.max_rows > 0 else []
        if retention.max_bytes > 0 and total:
            limits.append(int(retention.max_bytes / _row_bytes(connection, total)))
        return min(limits, default=None)

    def step(self) -> bool:
        """Delete a few rows; False when nothing is left to do. Raises SQLAlchemyError."""
        with self._engine.begin() as connection:
            count = self._delete_aged(connection)
            if not count and self._excess > 0:
                count = _delete_oldest(connection, min(self._excess, STEP_ROWS))
                self._excess = self._excess - count if count else 0
        self._deleted += count
        return bool(count)

    def finish(self) -> bool:
        """After the last step; True when texts without a trace were dropped, whose numbers must
        be forgotten. Raises SQLAlchemyError.
        """
        if not self._deleted:
            return False
        _log.info("deleted old traces", rows=self._deleted)
        self._deleted = 0
        return self._prune_labels()

    def _delete_aged(self, connection: Connection) -> int:
        if self.retention.days <= 0:
            return 0
        some = (
            select(traces.c.id)
            .where(traces.c.started_at < self._oldest_s)
            .order_by(traces.c.started_at)
            .limit(STEP_ROWS)
        )
        return connection.execute(delete(traces).where(traces.c.id.in_(some))).rowcount

    def _delete_old_trends(self, connection: Connection) -> None:
        hours_s = max(HOUR_TRENDS_S, self.retention.days * 86400.0)
        if self.retention.days <= 0:
            hours_s = float("inf")
        for step_s, kept_s in ((60, MINUTE_TRENDS_S), (3600, hours_s)):
            for table in (trends, trend_ttfts):
                is_old = table.c.bucket_s < now_s() - kept_s
                connection.execute(delete(table).where(table.c.step_s == step_s, is_old))

    def _prune_labels(self) -> bool:
        """Drop texts that no trace has any more.

        Only where this process is the only writer: another router's writer may have a number in
        hand for a trace that it has not written yet.
        """
        if self._engine.dialect.name != "sqlite":
            return False
        with self._engine.begin() as connection:
            total = connection.execute(select(func.count()).select_from(labels)).scalar_one()
            if total < PRUNED_LABELS:
                return False
            columns = [
                column
                for table in (traces, trends)
                for column in table.columns
                if column.name.endswith("_label")
            ]
            used = union(*(select(column) for column in columns))
            connection.execute(delete(labels).where(labels.c.id.not_in(used)))
        return True


def _row_bytes(connection: Connection, total: int) -> float:
    """What a trace takes on disk on average, its part of indexes included.

    Space that deleted traces leave is used again and does not count, so that a limit which was met
    is not met again by the same file.
    """
    if connection.dialect.name == "sqlite":
        free, pages, page_bytes = (
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("freelist_count", "page_count", "page_size")
        )
        return max(1.0, float((pages - free) * page_bytes) / total)
    query = text(
        "SELECT avg(pg_column_size(newest.*)) FROM "
        "(SELECT * FROM traces ORDER BY id DESC LIMIT :rows) AS newest"
    ).bindparams(rows=SAMPLED_ROWS)
    return float(connection.execute(query).scalar() or 0) + INDEX_BYTES


def _delete_oldest(connection: Connection, count: int) -> int:
    some = select(traces.c.id).order_by(traces.c.started_at, traces.c.id).limit(count)
    return connection.execute(delete(traces).where(traces.c.id.in_(some))).rowcount
