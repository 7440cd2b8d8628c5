"""Inserts of many rows that cost little, in CPU and in waiting for the interpreter's lock.

The statement comes from SQLAlchemy and is compiled once; values go to the driver as they
are. The driver lets go of the interpreter's lock for each call, and takes up to 5 ms (Python's
switch interval) to get it back while the event loop is busy: row by row a busy loop leaves the
writer 500 rows a second, a hundred rows a call leave it 15,000 (measured). Hence multi-row VALUES.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Insert

ROWS_PER_CALL = (200, 20, 1)
"""Few sizes, so that every statement stays in the driver's cache."""


class BulkInsert:
    """`statement` (with or without ON CONFLICT) for rows of values of `columns`."""

    def __init__(self, engine: Engine, statement: Insert, columns: Sequence[str]) -> None:
        dialect_class: Any = type(engine.dialect)
        dialect = dialect_class(paramstyle="qmark" if engine.dialect.name == "sqlite" else "format")
        compiled = statement.inline().compile(dialect=dialect, column_keys=list(columns))
        head, group, rest = _around_values(str(compiled))
        if list(compiled.positiontup or ()) != list(columns):
            raise ValueError(f"columns must be in the order of the table: {compiled.positiontup}")
        self._width = len(columns)
        most = _most_parameters(engine) // self._width
        sizes = sorted({min(size, most) for size in ROWS_PER_CALL}, reverse=True)
        self._statements = {size: head + ", ".join([group] * size) + rest for size in sizes}

    def __call__(self, connection: Connection, values: list[Any]) -> None:
        """Insert the rows whose values follow each other in `values`.

        Raises SQLAlchemyError, and UnicodeEncodeError or OverflowError for impossible values.
        """
        start = 0
        for size, statement in self._statements.items():
            length = size * self._width
            while len(values) - start >= length:
                parameters = tuple(values[start : start + length])
                connection.exec_driver_sql(statement, parameters)
                start += length


def _most_parameters(engine: Engine) -> int:
    """What a statement may have (https://www.sqlite.org/limits.html#max_variable_number)."""
    if engine.dialect.name != "sqlite":
        return 65_535
    return 999 if sqlite3.sqlite_version_info < (3, 32) else 32_766


def _around_values(sql: str) -> tuple[str, str, str]:
    """`INSERT ... VALUES `, the group of parameters in its parentheses, and what follows it."""
    start = sql.index(" VALUES ") + len(" VALUES ")
    depth = 0
    for end, character in enumerate(sql[start:], start + 1):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return sql[:start], sql[start:end], sql[end:]
    raise ValueError(f"no VALUES in {sql!r}")
