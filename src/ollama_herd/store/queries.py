"""Questions about traces. Everything blocks: call it in a worker thread. Raises StoreError."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, and_, or_, select, tuple_

from ollama_herd.store.database import Database
from ollama_herd.store.labels import (
    TAGS_SPACE,
    TEXT_SPACE,
    number_of,
    numbers_where,
    stored_text,
    tags_of,
    texts_of,
)
from ollama_herd.store.record import read_record
from ollama_herd.store.schema import traces
from ollama_herd.store.stored import StoredTrace, position_of, reason_of

LARGEST_PAGE = 1000
"""Traces a call at most."""

_LABEL_COLUMNS = (
    "client_label",
    "key_label",
    "path_label",
    "model_label",
    "node_label",
    "error_label",
    "tags_label",
)


class StatusClass(enum.StrEnum):
    """What became of a request, coarsely."""

    OK = "ok"  # 2xx and 3xx without an error
    CLIENT_ERROR = "client_error"  # 4xx
    SERVER_ERROR = "server_error"  # 5xx
    CANCELLED = "cancelled"  # the client left before a status (499)
    FAILED = "failed"  # 4xx, 5xx, or an error after the status was sent


class TraceFilter(msgspec.Struct, frozen=True):
    """All that is given must hold; "" and None ask for nothing. Times are seconds since 1970."""

    from_s: float | None = None
    until_s: float | None = None  # exclusive
    model: str = ""  # served, or asked for where none served
    node_id: str = ""
    client: str = ""
    key_name: str = ""
    status: StatusClass | int | None = None  # a number as the client got it
    tag: str = ""
    error: str = ""  # part of the error code, in any case


def recent_traces(
    database: Database, wanted: TraceFilter, limit: int = 100, before: str = ""
) -> list[StoredTrace]:
    """Newest first by start; `before` is the cursor of the last trace of the page before.

    At most LARGEST_PAGE. Raises ValueError for a cursor that is none.
    """
    conditions: list[ColumnElement[bool]] = []
    if before:
        start, row = position_of(before)
        conditions.append(tuple_(traces.c.started_at, traces.c.id) < tuple_(start, row))
    with database.transaction() as connection:
        if not _add_conditions(connection, wanted, conditions):
            return []
        query = (
            select(traces)
            .where(*conditions)
            .order_by(traces.c.started_at.desc(), traces.c.id.desc())
            .limit(max(0, min(limit, LARGEST_PAGE)))
        )
        rows = connection.execute(query).mappings().all()
        return _spelt_out(connection, rows)


def find_trace(database: Database, request_id: str) -> StoredTrace | None:
    """The trace of a request, the newest if there are several."""
    with database.transaction() as connection:
        query = (
            select(traces)
            .where(traces.c.request_id == request_id)
            .order_by(traces.c.id.desc())
            .limit(1)
        )
        found = _spelt_out(connection, connection.execute(query).mappings().all())
        return found[0] if found else None


def _add_conditions(
    connection: Connection, wanted: TraceFilter, conditions: list[ColumnElement[bool]]
) -> bool:
    """False when nothing can match, since a text asked for was never stored."""
    if wanted.from_s is not None:
        conditions.append(traces.c.started_at >= wanted.from_s)
    if wanted.until_s is not None:
        conditions.append(traces.c.started_at < wanted.until_s)
    if not _add_texts(connection, wanted, conditions):
        return False
    if wanted.status is not None:
        conditions.append(_status_is(wanted.status))
    return True


def _add_texts(
    connection: Connection, wanted: TraceFilter, conditions: list[ColumnElement[bool]]
) -> bool:
    for column, text in (
        (traces.c.model_label, wanted.model),
        (traces.c.node_label, wanted.node_id),
        (traces.c.client_label, wanted.client),
        (traces.c.key_label, wanted.key_name),
    ):
        if text:
            number = number_of(connection, text)
            if number is None:
                return False
            conditions.append(column == number)
    if wanted.tag:
        tag = stored_text(wanted.tag)
        found = numbers_where(connection, TAGS_SPACE, tag, lambda text: tag in tags_of(text))
        if not found:
            return False
        conditions.append(traces.c.tags_label.in_(found))
    if wanted.error:
        found = numbers_where(connection, TEXT_SPACE, wanted.error)
        if not found:
            return False
        conditions.append(traces.c.error_label.in_(found))
    return True


def _status_is(wanted: StatusClass | int) -> ColumnElement[bool]:
    status = traces.c.status
    match wanted:
        case int():
            return status == wanted
        case StatusClass.OK:
            return and_(status < 400, traces.c.error_label == 0)
        case StatusClass.CLIENT_ERROR:
            return and_(status >= 400, status < 500, status != 499)
        case StatusClass.SERVER_ERROR:
            return status >= 500
        case StatusClass.CANCELLED:
            return status == 499
        case StatusClass.FAILED:
            return and_(or_(status >= 400, traces.c.error_label != 0), status != 499)


def _spelt_out(connection: Connection, rows: Sequence[RowMapping]) -> list[StoredTrace]:
    texts = texts_of(connection, {row[name] for row in rows for name in _LABEL_COLUMNS})
    return [_trace_of(dict(row), texts) for row in rows]


def _trace_of(row: dict[str, Any], texts: Mapping[int, str]) -> StoredTrace:
    client, key_name, path, model, node_id, error, tags = (
        texts.get(row.pop(name), "") for name in _LABEL_COLUMNS
    )
    record = read_record(row.pop("record"))
    decision, refusal = record.decided(), record.refused()
    return StoredTrace(
        started_s=row.pop("started_at"),
        client=client,
        key_name=key_name,
        path=path,
        model=model,
        node_id=node_id,
        reason=row.pop("reason") or reason_of(decision, refusal),
        error=error,
        tags=tags_of(tags),
        dialect=record.dialect,
        kind=record.kind,
        model_asked=record.model_asked,
        model_served=model if record.was_served else "",
        stream=record.stream,
        prompt_tokens_estimate=record.prompt_tokens_estimate,
        max_tokens=record.max_tokens,
        load_options=record.load_options,
        priority=record.priority,
        fallback_models=record.fallback_models,
        is_load_only=record.is_load_only,
        done_reason=record.done_reason,
        decision=decision,
        attempts=record.tried(),
        refusal=refusal,
        earlier=record.decided_before(),
        hedged=record.hedged,
        continued=record.continued,
        **row,  # what is called the same
    )
