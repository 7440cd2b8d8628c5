"""Writes batches of traces over one connection; belongs to the writer thread of `traces.py`."""

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, insert
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, SQLAlchemyError

from ollama_herd.store.bulk import BulkInsert
from ollama_herd.store.labels import LabelNumbers
from ollama_herd.store.rows import ROW_COLUMNS, Entry, cleaned, row_of
from ollama_herd.store.schema import traces
from ollama_herd.store.trends import Tally, TrendWriter

_MODEL = ROW_COLUMNS.index("model_label")
_NODE = ROW_COLUMNS.index("node_label")

_IMPOSSIBLE = (UnicodeEncodeError, OverflowError, DataError, IntegrityError, InterfaceError)
"""What a driver says of a value it cannot store; trying again does not help."""

_log = structlog.get_logger(__name__)


class BatchWriter:
    """`write()` puts a batch and its trends into the database, all of it or nothing."""

    def __init__(self, engine: Engine) -> None:
        self._connection: Connection = engine.connect()
        self._insert = BulkInsert(engine, insert(traces), ROW_COLUMNS)
        self._trends = TrendWriter(engine)
        self._numbers = LabelNumbers(engine)

    def write(self, entries: Sequence[Entry]) -> int:
        """How many were written; the others cannot be stored, ever. Raises SQLAlchemyError when
        nothing was written and it is worth trying again.
        """
        self._numbers.bound()
        rows, tally = self._built(entries)
        try:
            self._commit(rows, tally)
        except _IMPOSSIBLE:
            return self._write_one_by_one(entries)
        return len(rows)

    def forget_labels(self) -> None:
        """Labels were deleted: look their numbers up again."""
        self._numbers.forget()

    def close(self) -> None:
        self._connection.close()

    def _built(self, entries: Sequence[Entry]) -> tuple[list[tuple[Any, ...]], Tally]:
        tally = Tally()
        rows = []
        for entry in entries:
            try:
                row = row_of(entry, self._numbers)
                tally.add(entry.trace, row[_MODEL], row[_NODE])
            except (ValueError, OverflowError, TypeError) as error:
                _log.warning("trace cannot be stored", reason=str(error)[:200])
                continue
            rows.append(row)
        return rows, tally

    def _commit(self, rows: Sequence[tuple[Any, ...]], tally: Tally) -> None:
        with self._connection.begin():
            self._insert(self._connection, rows)
            self._trends.add(self._connection, tally)

    def _write_one_by_one(self, entries: Sequence[Entry]) -> int:
        """Some value was refused: clean them all, and let only a hopeless trace fall."""
        written = 0
        for entry in entries:
            rows, tally = self._built([entry])
            try:
                self._commit([cleaned(row) for row in rows], tally)
            except _IMPOSSIBLE as error:
                cause = error.orig if isinstance(error, SQLAlchemyError) else error
                _log.warning("trace cannot be stored", reason=type(cause).__name__)
                continue
            written += len(rows)
        return written
