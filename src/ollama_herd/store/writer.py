"""Writes batches of traces over one connection; belongs to the writer thread of `traces.py`."""

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, insert
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from ollama_herd.store.bulk import BulkInsert
from ollama_herd.store.labels import LabelNumbers
from ollama_herd.store.rows import ROW_COLUMNS, PlaceNumbers, Row, cleaned
from ollama_herd.store.schema import traces
from ollama_herd.store.trends import Tally, TrendWriter

_IMPOSSIBLE = (
    ValueError,  # of which UnicodeEncodeError is one
    TypeError,
    OverflowError,
    DataError,
    IntegrityError,
)
"""What is said of a value that cannot be stored; trying again does not help."""

_log = structlog.get_logger(__name__)


class BatchWriter:
    """`write()` puts a batch into the database, all of it or nothing."""

    def __init__(self, engine: Engine) -> None:
        self._connection: Connection = engine.connect()
        self._insert = BulkInsert(engine, insert(traces), ROW_COLUMNS)
        self._trends = TrendWriter(engine)
        self._numbers = LabelNumbers(self._connection)
        self._places = PlaceNumbers(self._numbers)

    def write(self, waiting: Sequence[Row]) -> int:
        """How many were written; the others cannot be stored, ever.

        Raises SQLAlchemyError when nothing was written and it is worth trying again.
        """
        self._numbers.bound()
        self._places.bound()
        try:
            places, values = self._places, list[Any]()
            for begun, place, rest, _ in waiting:
                values += begun
                values += places[place]
                values += rest
            self._commit(values)
        except _IMPOSSIBLE:
            return self._write_one_by_one(waiting)
        return len(waiting)

    def write_trends(self, tally: Tally) -> None:
        """Add the tally and empty it. Raises SQLAlchemyError; the tally stays as it is then."""
        sums, slots = tally.rows(self._numbers)
        try:
            with self._connection.begin():
                self._trends.add(self._connection, sums, slots)
        except _IMPOSSIBLE as error:
            _log.warning("counts for trends cannot be stored", reason=type(error).__name__)
        tally.clear()

    def forget_labels(self) -> None:
        """Labels were deleted: look their numbers up again."""
        self._numbers.forget()
        self._places.clear()

    def close(self) -> None:
        self._connection.close()

    def _commit(self, values: list[Any]) -> None:
        with self._connection.begin():
            self._insert(self._connection, values)

    def _write_one_by_one(self, waiting: Sequence[Row]) -> int:
        """Some value was refused: clean them all, and let only a hopeless trace fall."""
        rows = []
        for begun, place, rest, _ in waiting:
            try:
                rows.append(cleaned((*begun, *self._places[place], *rest)))
            except _IMPOSSIBLE as error:
                _log.warning("trace cannot be stored", reason=type(error).__name__)
        written = 0
        with self._connection.begin():
            for values in rows:
                try:
                    with self._connection.begin_nested():
                        self._insert(self._connection, values)
                except _IMPOSSIBLE as error:
                    cause = error.orig if isinstance(error, DBAPIError) else error
                    _log.warning("trace cannot be stored", reason=type(cause).__name__)
                else:
                    written += 1
        return written
