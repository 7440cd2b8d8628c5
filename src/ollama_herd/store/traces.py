"""Takes in the trace of each request and answers questions about them.

`put` and `health` are safe on the event loop: they touch no lock, disk or database. One thread
writes, and opens the database by itself: a database that cannot be opened or written never reaches
the request path. Traces then wait in a bounded queue, what does not fit is counted, and writing is
tried again for as long as the store lives. Every other method blocks: call it in a worker thread.
"""

import threading
import time
from collections import deque

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.trace import Trace
from ollama_herd.store.database import Database
from ollama_herd.store.errors import StoreError, explained
from ollama_herd.store.expiry import Expiry, Retention
from ollama_herd.store.queries import TraceFilter, find_trace, recent_traces
from ollama_herd.store.rows import Entry
from ollama_herd.store.stored import StoredTrace
from ollama_herd.store.trends import Step, TrendPoint, read_trend
from ollama_herd.store.writer import BatchWriter

QUEUE_CAPACITY = 10_000
"""Traces that wait at most: some 20 MB, and a few seconds of the busiest router."""

GATHER_S = 0.2
"""How long the writer lets traces gather, so that a transaction is paid for by many."""

BATCH_ROWS = 1000
"""Rows a transaction at most."""

EXPIRY_INTERVAL_S = 600.0
"""How often old traces are looked for."""

SIZE_INTERVAL_S = 5.0
"""How often the size of the file, and whether it is still there, is looked at."""

EXPIRY_STEPS = 5
"""Steps of deleting between two batches: 2,500 rows, faster than a router makes new ones."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Between tries after a failure; each pause is twice the one before."""

LAST_PAUSE_S = 0.05
"""Between tries while `close` waits."""

_FAILURES = (StoreError, SQLAlchemyError, OSError)

_log = structlog.get_logger(__name__)


class TraceHealth(msgspec.Struct, frozen=True):
    """How the store is doing. `last_error` is "" while all is well.

    `dropped` traces are lost: the queue was full, they were not written before the end, or no
    database can hold them. `file_bytes` is as of a few seconds ago.
    """

    written: int
    dropped: int
    pending: int
    last_error: str
    last_error_s: float
    file_bytes: int


def open_traces(
    database: Database,
    retention: Retention | None = None,
    *,
    capacity: int = QUEUE_CAPACITY,
) -> "TraceStore":
    """A running store. Never fails and never waits: the database is opened by its thread."""
    store = TraceStore(database, retention or Retention(), capacity)
    store.start()
    return store


class TraceStore:
    """Made by `open_traces`; end it with `close`."""

    def __init__(self, database: Database, retention: Retention, capacity: int) -> None:
        self._database = database
        self._retention = retention
        self._capacity = capacity
        self._queue: deque[Entry] = deque()
        self._batch: list[Entry] = []
        self._overflowed = 0
        self._lost = 0
        self._written = 0
        self._last_error = ""
        self._last_error_s = 0.0
        self._file_bytes = 0
        self._is_waiting = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._give_up_s = float("inf")
        self._pause_s = FIRST_PAUSE_S
        self._writer: BatchWriter | None = None
        self._expiry: Expiry | None = None
        self._expiring = False
        self._next_expiry_s = 0.0
        self._next_size_s = 0.0
        self._thread = threading.Thread(target=self._run, name="herd-traces", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(
        self,
        trace: Trace,
        *,
        key_name: str = "",
        reason: str = "",
        predicted_ttft_ms: float | None = None,
        predicted_total_ms: float | None = None,
    ) -> None:
        """Keep a trace; returns at once and never raises. One that does not fit is counted."""
        if len(self._queue) >= self._capacity:
            self._overflowed += 1
            return
        self._queue.append(Entry(trace, key_name, reason, predicted_ttft_ms, predicted_total_ms))
        if self._is_waiting:
            self._is_waiting = False
            self._wake.set()

    def health(self) -> TraceHealth:
        return TraceHealth(
            written=self._written,
            dropped=self._overflowed + self._lost,
            pending=len(self._queue) + len(self._batch),
            last_error=self._last_error,
            last_error_s=self._last_error_s,
            file_bytes=self._file_bytes,
        )

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what waits, for at most so long; False when something was lost. Blocks."""
        self._give_up_s = monotonic_s() + timeout_s
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s + 1.0)
        left = len(self._queue) + len(self._batch)
        if left:
            self._lost += left
            _log.warning("traces lost at the end", count=left, reason=self._last_error)
        return not left

    def recent(
        self, wanted: TraceFilter | None = None, limit: int = 100, before: str = ""
    ) -> list[StoredTrace]:
        """Newest first; `before` is the cursor of the last trace of the page before.

        Blocks. Raises StoreError, ValueError for a cursor that is none.
        """
        return recent_traces(self._database, wanted or TraceFilter(), limit, before)

    def get(self, request_id: str) -> StoredTrace | None:
        """Blocks. Raises StoreError."""
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

    def _run(self) -> None:
        while True:
            self._wait()
            try:
                self._write_waiting()
                self._keep_house()
            except _FAILURES as error:
                self._failed(error)
                self._rest()
            if self._closing.is_set() and self._may_end():
                break
        self._let_go()

    def _wait(self) -> None:
        """Until there is something to write; an idle router's writer sleeps for minutes."""
        if self._writer is None or self._batch:
            return
        self._wake.clear()
        self._is_waiting = True
        if not self._queue and not self._expiring:
            self._wake.wait(max(0.0, self._next_expiry_s - monotonic_s()))
        self._is_waiting = False
        self._closing.wait(GATHER_S)

    def _write_waiting(self) -> None:
        writer = self._writer or self._open()
        for _ in range(self._capacity // BATCH_ROWS + 1):  # then let the house be kept
            if not self._batch:
                count = min(len(self._queue), BATCH_ROWS)
                self._batch = [self._queue.popleft() for _ in range(count)]
            if not self._batch:
                break
            written = writer.write(self._batch)
            self._written += written
            self._lost += len(self._batch) - written
            self._batch = []
        self._recovered()

    def _open(self) -> BatchWriter:
        engine = self._database.engine()
        self._expiry = Expiry(engine, self._retention)
        self._writer = BatchWriter(engine)
        self._next_expiry_s = self._next_size_s = 0.0
        return self._writer

    def _keep_house(self) -> None:
        now = monotonic_s()
        if now >= self._next_size_s:
            self._next_size_s = now + SIZE_INTERVAL_S
            self._file_bytes = self._database.size_bytes()
            if self._database.was_replaced():
                _log.warning("database was moved or deleted; opening it anew")
                self._let_go()
                return
        if self._expiry is None or self._closing.is_set():
            return
        if now >= self._next_expiry_s:
            self._next_expiry_s = now + EXPIRY_INTERVAL_S
            self._expiry.look()
            self._expiring = True
        for _ in range(EXPIRY_STEPS):
            self._expiring = self._expiring and self._expiry.step()
        if not self._expiring and self._expiry.finish() and self._writer is not None:
            self._writer.forget_labels()

    def _failed(self, error: StoreError | SQLAlchemyError | OSError) -> None:
        said = error if isinstance(error, StoreError) else explained(error, self._database.name)
        if str(said) != self._last_error:
            _log.warning(
                "traces wait for the database", reason=str(said), kept_at_most=self._capacity
            )
        self._last_error, self._last_error_s = str(said), now_s()
        self._let_go()

    def _recovered(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        if self._last_error:
            _log.info("traces are written again", dropped=self._overflowed + self._lost)
            self._last_error = ""

    def _rest(self) -> None:
        """Before the next try: ever longer, but at the end there is no time for that."""
        if not self._closing.wait(self._pause_s):
            self._pause_s = min(self._pause_s * 2.0, LONGEST_PAUSE_S)
        elif not self._may_end():
            time.sleep(LAST_PAUSE_S)

    def _may_end(self) -> bool:
        return not (self._queue or self._batch) or monotonic_s() >= self._give_up_s

    def _let_go(self) -> None:
        """Of the connection, so that the next use opens the database as if for the first time."""
        writer, self._writer, self._expiry = self._writer, None, None
        if writer is None:
            return
        try:
            writer.close()
        except SQLAlchemyError as error:
            _log.debug("connection did not close", reason=str(error)[:200])
        self._database.close()
