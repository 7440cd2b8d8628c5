"""The one thread that writes traces: opens the database, gathers, writes, keeps house.

Owned by `traces.TraceStore`; the event loop calls `offer`, all below `close` runs in the thread.
Nothing that goes wrong with the database leaves the thread: traces wait in a bounded queue, what
does not fit is counted, and writing is tried again for as long as the store lives.
"""

import threading
import time
from collections import deque

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.store.database import Database
from ollama_herd.store.errors import StoreError, explained
from ollama_herd.store.expiry import Expiry, Retention
from ollama_herd.store.rows import Row
from ollama_herd.store.trends import Tally
from ollama_herd.store.writer import BatchWriter

GATHER_S = 0.2
"""How long the thread lets traces gather, so that a transaction is paid for by many."""

BATCH_ROWS = 2000
"""Rows a transaction at most."""

TREND_INTERVAL_S = 5.0
"""How often sums for trends are written."""

SIZE_INTERVAL_S = 5.0
"""How often, while traces come, the file is looked at: its size, and whether it is still there."""

EXPIRY_INTERVAL_S = 600.0
"""How often old traces are looked for."""

EXPIRY_STEPS = 5
"""Steps of deleting between two batches: 2,500 rows, faster than a router makes new ones."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Between tries after a failure; each pause is twice the one before."""

LAST_PAUSE_S = 0.05
"""Between tries while the end is waited for."""

_FAILURES = (StoreError, SQLAlchemyError, OSError)

_log = structlog.get_logger(__name__)


class WriterThread:
    """Counts are written by one thread each and read by any."""

    def __init__(self, database: Database, retention: Retention, capacity: int) -> None:
        self.written = 0
        self.overflowed = 0
        self.lost = 0
        self.last_error = ""
        self.last_error_s = 0.0
        self.file_bytes = 0
        self._database = database
        self._retention = retention
        self._capacity = capacity
        self._queue: deque[Row] = deque()
        self._batch: list[Row] = []
        self._tally = Tally()
        self._writer: BatchWriter | None = None
        self._expiry: Expiry | None = None
        self._is_expiring = False
        self._is_waiting = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._give_up_s = float("inf")
        self._pause_s = FIRST_PAUSE_S
        self._trends_due_s = self._size_due_s = self._expiry_due_s = 0.0
        self._thread = threading.Thread(target=self._run, name="herd-traces", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        return len(self._queue) + len(self._batch)

    def offer(self, row: Row) -> None:
        """Never blocks, never fails; what does not fit is counted."""
        if len(self._queue) >= self._capacity:
            self.overflowed += 1
            return
        self._queue.append(row)
        if self._is_waiting:
            self._is_waiting = False
            self._wake.set()

    def retain(self, retention: Retention) -> None:
        """Keep more or less from the next look on."""
        self._retention = retention
        if self._expiry is not None:
            self._expiry.retention = retention
        self._expiry_due_s = 0.0

    def close(self, timeout_s: float) -> int:
        """Write what waits for at most `timeout_s`; the number of traces that were lost. Blocks."""
        self._give_up_s = monotonic_s() + timeout_s
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        lost = self.pending
        if lost:
            self.lost += lost
            _log.warning("traces lost at the end", count=lost, reason=self.last_error or "no time")
        return lost

    def _run(self) -> None:
        try:
            self._work()
        finally:
            if not self._closing.is_set():  # a defect: its traceback is on standard error
                self.last_error = "The thread that writes traces has ended. Restart the router."

    def _work(self) -> None:
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
        """Until there is something to do; an idle router's thread sleeps for minutes."""
        if self._writer is None or self._batch:
            return
        self._wake.clear()
        self._is_waiting = True
        if not self._queue and not self._is_expiring:
            due_s = min(self._expiry_due_s, self._trends_due_s if self._tally else float("inf"))
            self._wake.wait(max(0.0, due_s - monotonic_s()))
        self._is_waiting = False
        self._closing.wait(GATHER_S)

    def _write_waiting(self) -> None:
        writer = self._writer or self._open()
        for _ in range(self._capacity // BATCH_ROWS + 1):  # then the house is kept
            if not self._batch:
                count = min(len(self._queue), BATCH_ROWS)
                self._batch = [self._queue.popleft() for _ in range(count)]
            if not self._batch:
                break
            written = writer.write(self._batch)
            self._tally.add(self._batch)
            self.written += written
            self.lost += len(self._batch) - written
            self._batch = []
        if self._tally and (monotonic_s() >= self._trends_due_s or self._closing.is_set()):
            self._trends_due_s = monotonic_s() + TREND_INTERVAL_S
            writer.write_trends(self._tally)
        self._recovered()

    def _open(self) -> BatchWriter:
        engine = self._database.engine()
        self._expiry = Expiry(engine, self._retention)
        self._writer = BatchWriter(engine)
        self._size_due_s = self._expiry_due_s = 0.0
        return self._writer

    def _keep_house(self) -> None:
        now = monotonic_s()
        if now >= self._size_due_s:
            self._size_due_s = now + SIZE_INTERVAL_S
            self.file_bytes = self._database.size_bytes()
            if self._database.was_replaced():
                _log.warning("database was moved or deleted; opening it anew")
                self._let_go()
        if self._expiry is None or self._closing.is_set():
            return
        if now >= self._expiry_due_s:
            self._expiry_due_s = now + EXPIRY_INTERVAL_S
            self._expiry.look()
            self._is_expiring = True
        for _ in range(EXPIRY_STEPS):
            self._is_expiring = self._is_expiring and self._expiry.step()
        if not self._is_expiring and self._expiry.finish() and self._writer is not None:
            self._writer.forget_labels()

    def _failed(self, error: StoreError | SQLAlchemyError | OSError) -> None:
        said = error if isinstance(error, StoreError) else explained(error, self._database.name)
        if str(said) != self.last_error:
            _log.warning("traces wait for the database", reason=str(said), room=self._capacity)
        self.last_error, self.last_error_s = str(said), now_s()
        self._let_go()

    def _recovered(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        if self.last_error:
            _log.info("traces are written again", dropped=self.overflowed + self.lost)
            self.last_error = ""

    def _rest(self) -> None:
        """Before the next try: ever longer, but at the end there is no time for that."""
        if not self._closing.wait(self._pause_s):
            self._pause_s = min(self._pause_s * 2.0, LONGEST_PAUSE_S)
        elif not self._may_end():
            time.sleep(LAST_PAUSE_S)

    def _may_end(self) -> bool:
        is_done = not (self._queue or self._batch or self._tally)
        return is_done or monotonic_s() >= self._give_up_s

    def _let_go(self) -> None:
        """Of all connections: the next use opens the database as if for the first time."""
        writer, self._writer, self._expiry = self._writer, None, None
        if writer is None:
            return
        try:
            writer.close()
        except SQLAlchemyError as error:
            _log.debug("connection did not close", reason=str(error)[:200])
        self._database.close()
