"""Takes in the trace of each request and answers questions about them.

`put` and `health` are safe on the event loop: they touch no lock, disk or database. Every other
method blocks: call it in a worker thread.
"""

import msgspec

from ollama_herd.core.trace import Trace
from ollama_herd.store.database import Database
from ollama_herd.store.expiry import Retention
from ollama_herd.store.queries import TraceFilter, find_trace, recent_traces
from ollama_herd.store.rows import row_of
from ollama_herd.store.stored import StoredTrace
from ollama_herd.store.thread import WriterThread
from ollama_herd.store.trends import Step, TrendPoint, read_trend

QUEUE_CAPACITY = 10_000
"""Traces that wait at most: some 20 MB, and a few seconds of the busiest router."""


class TraceHealth(msgspec.Struct, frozen=True):
    """How the store is doing. `last_error` is "" while all is well, else says what to do.

    `dropped` traces are lost: the queue was full, they were not written before the end, or no
    database can hold them. `file_bytes` is as of a few seconds before the last trace.
    """

    written: int
    dropped: int
    pending: int
    last_error: str
    last_error_s: float  # seconds since 1970 of the last failure, 0: none
    file_bytes: int


def open_traces(
    database: Database, retention: Retention | None = None, *, capacity: int = QUEUE_CAPACITY
) -> "TraceStore":
    """A running store. Never fails and never waits: the database is opened by its own thread.

    While the database cannot be opened or written, up to `capacity` traces wait for it, more are
    counted as dropped, and it is tried again for as long as the store lives. The file is never
    deleted or overwritten.
    """
    return TraceStore(database, retention or Retention(), capacity)


class TraceStore:
    """Made by `open_traces`; end it with `close`."""

    def __init__(self, database: Database, retention: Retention, capacity: int) -> None:
        self._database = database
        self._thread = WriterThread(database, retention, capacity)

    def put(self, trace: Trace) -> None:
        """Keep a trace; returns at once and never raises. One that does not fit is counted."""
        self._thread.offer(row_of(trace))

    def health(self) -> TraceHealth:
        """How the store is doing; returns at once."""
        thread = self._thread
        return TraceHealth(
            written=thread.written,
            dropped=thread.overflowed + thread.lost,
            pending=thread.pending,
            last_error=thread.last_error,
            last_error_s=thread.last_error_s,
            file_bytes=thread.file_bytes,
        )

    def retain(self, retention: Retention) -> None:
        """Keep more or less from the next look at what is old; returns at once."""
        self._thread.retain(retention)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what waits, for at most so long; False when something was lost. Blocks."""
        return not self._thread.close(timeout_s)

    def recent(
        self, wanted: TraceFilter | None = None, limit: int = 100, before: str = ""
    ) -> list[StoredTrace]:
        """Newest first; `before` is the cursor of the last trace of the page before.

        Blocks. Raises StoreError, ValueError for a cursor that is none.
        """
        return recent_traces(self._database, wanted or TraceFilter(), limit, before)

    def get(self, request_id: str) -> StoredTrace | None:
        """The trace of a request. Blocks. Raises StoreError."""
        return find_trace(self._database, request_id)

    def trend(
        self,
        start_s: float,
        end_s: float,
        step: Step = Step.HOUR,
        *,
        model: str = "",
        node_id: str = "",
    ) -> list[TrendPoint]:
        """See `trends.read_trend`. Blocks. Raises StoreError, ValueError."""
        return read_trend(self._database, start_s, end_s, step, model=model, node_id=node_id)
