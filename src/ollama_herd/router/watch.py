"""Watches the herd: counts ended requests, looks at health, tells and keeps what changed there.

Ended requests are counted a few at a time where they end, while their values are in the processor's
cache: traces that waited for a thread would be hundreds of objects a request, cold by then. Looking
and exporting run in a thread.
"""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.counts import Counts
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.health.history import LoadLog
from ollama_herd.core.health.tracking import Tracked, health, look, track
from ollama_herd.core.health.values import (
    RANK,
    Health,
    RouterFacts,
    Severity,
    Snapshot,
    StoreState,
    Stuck,
    Transition,
)
from ollama_herd.core.queue import QueueView
from ollama_herd.core.tally import WINDOW_MINUTES, Key, Tally
from ollama_herd.core.trace import Trace
from ollama_herd.store.errors import StoreError
from ollama_herd.store.traces import TraceHealth

COUNT_S = 1.0
"""How often ended requests are counted."""

COUNTED_AT_ONCE = 16
"""Ended requests that are counted together on the event loop."""

LOOK_EVERY = 4
"""Health is looked at with every so many counts."""

MAX_ENDED = 100_000
"""Traces that wait to be counted: seconds of the busiest router. Beyond it the oldest are not
counted."""

MAX_UNKEPT = 1000
"""Changes that wait for the database."""

_log = structlog.get_logger(__name__)


class History(Protocol):
    """Where changes are kept; blocks, raises StoreError."""

    def add(self, changes: Sequence[Transition]) -> None: ...
    def recent(self, limit: int = 100) -> list[Transition]: ...


class Watch:
    """`facts` and `store` are asked at every look; `stuck` names runners that failed a canary;
    `export` is given each trace, in a thread.
    """

    def __init__(
        self,
        *,
        fleet: Callable[[], Fleet],
        queue: Callable[[], QueueView],
        facts: Callable[[], RouterFacts],
        store: Callable[[], TraceHealth | None],
        history: History,
        stuck: Callable[[], tuple[Stuck, ...]] = tuple,
        export: Callable[[Trace], None] | None = None,
    ) -> None:
        self._fleet = fleet
        self._queue = queue
        self._facts = facts
        self._store = store
        self._history = history
        self._stuck = stuck
        self._export = export
        self._ended: deque[Trace] = deque(maxlen=MAX_ENDED)
        self._counted = 0
        self._tally = Tally()
        self._loads = LoadLog()
        self._counting = threading.Lock()
        self._tracked = Tracked()
        self._dropped: deque[tuple[float, int]] = deque(maxlen=WINDOW_MINUTES * 60)
        self._unkept: deque[Transition] = deque(maxlen=MAX_UNKEPT)
        self._health: Health | None = None

    def put(self, trace: Trace) -> None:
        """Takes the trace of a request that has ended. Never waits."""
        ended = self._ended
        ended.append(trace)
        if len(ended) < COUNTED_AT_ONCE or self._export is not None:
            return
        if self._counting.acquire(blocking=False):  # else whoever counts now takes it along
            try:
                self._count_ended()
            finally:
                self._counting.release()

    @property
    def ended(self) -> int:
        """Requests that have ended since the start."""
        return self._counted + len(self._ended)

    @property
    def health(self) -> Health:
        """As of the last look. Only on the event loop."""
        if self._health is None:
            self._look(self._snapshot())
        if self._health is None:
            raise AssertionError("a look gives a state")
        return self._health

    async def run(self) -> None:
        """Count and look, for ever. A defect in a look costs that look."""
        told = ""
        for rounds in itertools.count():
            (failure,) = await asyncio.gather(
                self._again(looks=rounds % LOOK_EVERY == 0), return_exceptions=True
            )
            if failure is not None and repr(failure) != told:
                told = repr(failure)
                _log.error("health could not be looked at", exc_info=failure)
            await asyncio.sleep(COUNT_S)

    async def _again(self, *, looks: bool) -> None:
        await asyncio.to_thread(self._round, self._snapshot() if looks else None)

    def close(self) -> None:
        """Count and export the last ones. Blocks."""
        self._count()

    def totals(self) -> Mapping[Key, Counts]:
        """What was counted since the start, the last request included. Blocks."""
        self._count()
        with self._counting:
            return self._tally.totals()

    def changes(self, limit: int) -> list[Transition]:
        """The newest changes first. Blocks. Raises StoreError."""
        return self._history.recent(limit)

    def _round(self, snapshot: Snapshot | None) -> None:
        self._count()
        if snapshot is not None:
            self._look(snapshot)
            self._keep()

    def _count(self) -> None:
        with self._counting:
            self._count_ended()

    def _count_ended(self) -> None:
        ended, export = self._ended, self._export
        traces = [ended.popleft() for _ in range(len(ended))]
        self._counted += len(traces)
        self._tally.add(traces, monotonic_s())
        if export is not None:
            for trace in traces:
                export(trace)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            now_s=monotonic_s(),
            fleet=self._fleet(),
            queue=self._queue(),
            stuck=self._stuck(),
            store=self._store_state(),
            router=self._facts(),
        )

    def _look(self, snapshot: Snapshot) -> None:
        now = snapshot.now_s
        with self._counting:
            seen = Snapshot(
                now_s=now,
                fleet=snapshot.fleet,
                queue=snapshot.queue,
                recent=self._tally.recent(now),
                loads=self._loads.observe(snapshot.fleet, now),
                stuck=snapshot.stuck,
                store=snapshot.store,
                router=snapshot.router,
            )
            offset_s = now_s() - monotonic_s()
            self._tracked, changes = track(self._tracked, look(seen), now, offset_s)
            self._health = health(self._tracked, now, offset_s)
        for change in changes:
            _tell(change)
            self._unkept.append(change)

    def _keep(self) -> None:
        """Write what changed; what cannot be written now waits for the next look."""
        if not self._unkept:
            return
        changes = list(self._unkept)
        try:
            self._history.add(changes)
        except StoreError as error:
            _log.debug("changes of health wait for the database", reason=str(error))
            return
        for _ in changes:
            self._unkept.popleft()

    def _store_state(self) -> StoreState:
        state = self._store()
        if state is None:
            return StoreState(is_on=False)
        now = monotonic_s()
        while self._dropped and self._dropped[0][0] < now - WINDOW_MINUTES * 60:
            self._dropped.popleft()
        self._dropped.append((now, state.dropped))
        return StoreState(
            error=state.last_error,
            dropped=state.dropped,
            dropped_recently=state.dropped - self._dropped[0][1],
            pending=state.pending,
        )


def _tell(change: Transition) -> None:
    """One line a change, as loud as it is bad."""
    log = {Severity.CRITICAL: _log.error, Severity.WARNING: _log.warning}.get(
        change.after, _log.info
    )
    if RANK[change.after] == 0:
        log("health: over", check=change.code, about=change.name, was=change.seen)
    else:
        log(f"health: {change.after.value}", check=change.code, about=change.name, seen=change.seen)
