"""Counts, tokens and times to first token by minute and hour, kept while traces are written.

Every sum is added to what is there, in the transaction of the traces themselves, so several
routers may share a database and a crash loses neither more nor less than their traces. There is one
series for the whole fleet, one a model and one a node; reading a trend never touches a trace.
"""

import enum
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import log2

import msgspec
from sqlalchemy import Connection, Engine, RowMapping, Table, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.trace import Trace
from ollama_herd.store.bulk import BulkInsert
from ollama_herd.store.database import Database
from ollama_herd.store.labels import number_of
from ollama_herd.store.schema import trend_ttfts, trends

SLOTS_PER_OCTAVE = 8
"""Times to first token are counted in slots that grow by 2^(1/8): a percentile is at most 4.5 %
off, which no one sees on a curve."""

_LAST_SLOT = SLOTS_PER_OCTAVE * 22  # 2^22 ms is over an hour

_CLIENT_LEFT = 499

_Key = tuple[int, int, int, int]  # step (s), model, node, bucket (s)
_Sums = list[float]


class Step(enum.IntEnum):
    """Width of a trend's buckets in seconds."""

    MINUTE = 60
    HOUR = 3600


class TrendPoint(msgspec.Struct, frozen=True):
    """What began within one bucket. Percentiles are None where nothing was answered.

    A request counts as one of failed (an error, of whoever), cancelled (the client left) or
    neither. `retried` needed more than one attempt.
    """

    bucket_s: int
    requests: int
    failed: int
    cancelled: int
    retried: int
    prompt_tokens: int
    output_tokens: int
    mean_queue_ms: float
    mean_total_ms: float
    ttft_p50_ms: float | None
    ttft_p90_ms: float | None
    ttft_p99_ms: float | None


class Tally:
    """Sums of one batch, by minute, model and node (their labels)."""

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[int, int, int], _Sums] = defaultdict(lambda: [0] * 8)
        self._slots: defaultdict[tuple[int, int, int, int], int] = defaultdict(int)

    def add(self, trace: Trace, model: int, node: int) -> None:
        """Raises ValueError or OverflowError for a start that is no time."""
        minute = int(trace.started_s // 60) * 60
        sums = self._sums[minute, model, node]
        sums[0] += 1
        attempts = trace.attempts
        if trace.status == _CLIENT_LEFT or (
            attempts and attempts[-1].outcome is OutcomeKind.CANCELLED
        ):
            sums[2] += 1
        elif trace.status >= 400 or trace.error:
            sums[1] += 1
        if len(attempts) > 1:
            sums[3] += 1
        usage = trace.usage
        if usage is not None:
            sums[4] += usage.prompt_tokens or 0
            sums[5] += usage.output_tokens or 0
        sums[6] += trace.queue_ms
        sums[7] += trace.total_ms
        if trace.ttft_ms >= 0:
            self._slots[minute, model, node, slot_of(trace.ttft_ms)] += 1

    def rows(self) -> tuple[list[tuple[float, ...]], list[tuple[int, ...]]]:
        """Rows of `trends` and `trend_ttfts` in the order of their keys (no deadlocks)."""
        sums: defaultdict[_Key, _Sums] = defaultdict(lambda: [0] * 8)
        for (minute, model, node), some in self._sums.items():
            for key in _series(minute, model, node):
                total = sums[key]
                for i, value in enumerate(some):
                    total[i] += value
        slots: defaultdict[tuple[int, int, int, int, int], int] = defaultdict(int)
        for (minute, model, node, slot), count in self._slots.items():
            for key in _series(minute, model, node):
                slots[*key, slot] += count
        return (
            [(*key, *sums[key]) for key in sorted(sums)],
            [(*key, slots[key]) for key in sorted(slots)],
        )


def slot_of(ttft_ms: float) -> int:
    return min(int(SLOTS_PER_OCTAVE * log2(ttft_ms)), _LAST_SLOT) if ttft_ms > 1.0 else 0


def _series(minute: int, model: int, node: int) -> list[_Key]:
    """What a request counts for: fleet, model and node, each by minute and by hour."""
    hour = minute // 3600 * 3600
    whose = [(0, 0)]
    if model:
        whose.append((model, 0))
    if node:
        whose.append((0, node))
    return [(step, *who, bucket) for step, bucket in ((60, minute), (3600, hour)) for who in whose]


class TrendWriter:
    """Adds tallies to the database; belongs to the writer thread."""

    def __init__(self, engine: Engine) -> None:
        self._trends = _adding(engine, trends)
        self._ttfts = _adding(engine, trend_ttfts)

    def add(self, connection: Connection, tally: Tally) -> None:
        sums, slots = tally.rows()
        self._trends(connection, sums)
        self._ttfts(connection, slots)


def _adding(engine: Engine, table: Table) -> BulkInsert:
    """INSERT whose values are added to those of a row that is already there."""
    dialect = sqlite if engine.dialect.name == "sqlite" else postgresql
    insert = dialect.insert(table)
    sums = [column for column in table.columns if not column.primary_key]
    statement: Insert = insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={column.name: column + insert.excluded[column.name] for column in sums},
    )
    return BulkInsert(engine, statement, table.columns.keys())


def read_trend(
    database: Database,
    start_s: float,
    end_s: float,
    step: Step = Step.HOUR,
    *,
    model: str = "",
    node_id: str = "",
) -> list[TrendPoint]:
    """Buckets that begin in `start_s <= t < end_s`, oldest first; quiet ones are left out.

    For the whole fleet, one model or one node; both raise ValueError. Blocks; raises StoreError.
    """
    if model and node_id:
        raise ValueError("trends are kept by model or by node, not by both")
    with database.transaction() as connection:
        model_label = number_of(connection, model)
        node_label = number_of(connection, node_id)
        if model_label is None or node_label is None:
            return []

        def within(table: Table) -> Sequence[RowMapping]:
            query = (
                select(table)
                .where(
                    table.c.step_s == int(step),
                    table.c.model_label == model_label,
                    table.c.node_label == node_label,
                    table.c.bucket_s >= start_s,
                    table.c.bucket_s < end_s,
                )
                .order_by(table.c.bucket_s)
            )
            return connection.execute(query).mappings().all()

        sums = within(trends)
        counts: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for row in within(trend_ttfts):
            counts[row["bucket_s"]][row["slot"]] = row["requests"]
    return [_point(row, counts[row["bucket_s"]]) for row in sums]


def _point(row: RowMapping, slots: Mapping[int, int]) -> TrendPoint:
    requests = int(row["requests"])
    p50, p90, p99 = (percentile(slots, share) for share in (0.5, 0.9, 0.99))
    return TrendPoint(
        bucket_s=int(row["bucket_s"]),
        requests=requests,
        failed=int(row["failed"]),
        cancelled=int(row["cancelled"]),
        retried=int(row["retried"]),
        prompt_tokens=int(row["prompt_tokens"]),
        output_tokens=int(row["output_tokens"]),
        mean_queue_ms=row["queue_ms"] / requests,
        mean_total_ms=row["total_ms"] / requests,
        ttft_p50_ms=p50,
        ttft_p90_ms=p90,
        ttft_p99_ms=p99,
    )


def percentile(slots: Mapping[int, int], share: float) -> float | None:
    """The time (ms) below which `share` of the counted requests lie, None when there are none."""
    wanted = share * sum(slots.values())
    seen = 0
    for slot in sorted(slots):
        seen += slots[slot]
        if seen >= wanted:
            return float(2 ** ((slot + 0.5) / SLOTS_PER_OCTAVE))
    return None
