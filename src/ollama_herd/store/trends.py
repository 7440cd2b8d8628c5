"""Counts, tokens and times to first token by minute and hour, kept while traces are written.

The writer adds them up in memory and every few seconds adds the sums to those in the database, so
several routers may share one; a killed router loses the counts of these seconds, never a trace.
There is a series for the whole fleet, for each model and each node; reading one touches no trace.
"""

import enum
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import isfinite
from operator import add
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Table, and_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from ollama_herd.store.bulk import BulkInsert
from ollama_herd.store.database import Database
from ollama_herd.store.labels import LabelNumbers, number_of
from ollama_herd.store.rows import Row
from ollama_herd.store.schema import trend_ttfts, trends

SLOTS_PER_OCTAVE = 8
"""Times to first token are counted in slots that grow by 2^(1/8): a percentile is at most 4.5 %
off, which no one sees on a curve."""

_SLOT_STARTS_MS = tuple(2 ** (slot / SLOTS_PER_OCTAVE) for slot in range(1, SLOTS_PER_OCTAVE * 22))
"""From 1 ms to over an hour (2^22 ms); shorter times share the first slot."""

_CLIENT_LEFT = 499

_SUMS = tuple(column.name for column in trends.columns if not column.primary_key)

_ZERO = (0,) * len(_SUMS)

_LARGEST_SUM = 10**15
"""Of one write; thousands of them fit into a column."""

_Key = tuple[int, int, int, int]  # step (s), model, node, bucket (s)
_Cell = tuple[list[float], dict[int, int]]  # values of _SUMS; requests by slot


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
    """Sums of the traces since the last `write`, by minute, model and node."""

    def __init__(self) -> None:
        self._cells: dict[tuple[float, str, str], _Cell] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Costs a microsecond a row."""
        cells = self._cells
        for (_, started_s), place, rest, was_cancelled in rows:
            _, _, _, model, node, status, error, _, _ = place
            (
                queue_ms,
                ttft_ms,
                total_ms,
                _,
                _,
                _,
                _,
                _,
                prompt_tokens,
                output_tokens,
                attempts,
                _,
            ) = rest
            key = (started_s // 60.0, model, node)
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = ([0] * len(_SUMS), {})
            sums, slots = cell
            sums[0] += 1
            if was_cancelled or status == _CLIENT_LEFT:
                sums[2] += 1
            elif status >= 400 or error:
                sums[1] += 1
            if attempts > 1:
                sums[3] += 1
            sums[4] += prompt_tokens or 0
            sums[5] += output_tokens or 0
            sums[6] += queue_ms
            sums[7] += total_ms
            if ttft_ms >= 0.0:
                slot = bisect(_SLOT_STARTS_MS, ttft_ms)
                slots[slot] = slots.get(slot, 0) + 1

    def rows(self, numbers: LabelNumbers) -> tuple[list[Any], list[Any]]:
        """Values of rows of `trends` and `trend_ttfts`, in the order of their keys (several
        routers then never wait for each other in a circle).
        """
        sums: dict[_Key, list[float]] = {}
        slots: defaultdict[tuple[int, ...], int] = defaultdict(int)
        for (minute, model, node), (some, counts) in self._cells.items():
            if not isfinite(minute):
                continue
            for key in _series(int(minute) * 60, numbers[model], numbers[node]):
                sums[key] = list(map(add, sums.get(key, _ZERO), some))
                for slot, count in counts.items():
                    slots[*key, slot] += count
        return (
            [value for key in sorted(sums) for value in (*key, *map(_storable, sums[key]))],
            [value for key in sorted(slots) for value in (*key, slots[key])],
        )

    def clear(self) -> None:
        self._cells.clear()

    def __bool__(self) -> bool:
        return bool(self._cells)


def _storable(total: float) -> float:
    """Engines may claim any count; a column holds 64 bits."""
    return min(max(total, 0), _LARGEST_SUM) if isfinite(total) else 0


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

    def add(self, connection: Connection, sums: list[Any], slots: list[Any]) -> None:
        """Add what `Tally.rows` gave, in the caller's transaction. Raises SQLAlchemyError."""
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

        def within(table: Table) -> ColumnElement[bool]:
            return and_(
                table.c.step_s == int(step),
                table.c.model_label == model_label,
                table.c.node_label == node_label,
                table.c.bucket_s >= start_s,
                table.c.bucket_s < end_s,
            )

        query = select(trends).where(within(trends)).order_by(trends.c.bucket_s)
        sums = connection.execute(query).mappings().all()
        slot_of = trend_ttfts.c
        by_slot = select(slot_of.bucket_s, slot_of.slot, slot_of.requests).where(
            within(trend_ttfts)
        )
        counts: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for bucket_s, slot, requests in connection.execute(by_slot):
            counts[bucket_s][slot] = requests
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
