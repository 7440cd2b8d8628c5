"""Counting and looking go on whatever fails around them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from ollama_herd.clock import monotonic_s
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.health.values import RouterFacts, Severity, Transition
from ollama_herd.core.queue import QueueView
from ollama_herd.core.trace import Trace
from ollama_herd.router.watch import Watch
from ollama_herd.store.errors import StoreError, StoreErrorKind
from ollama_herd.store.traces import TraceHealth
from ollama_herd.tasks import cancel_and_wait, spawn
from tests.store.samples import trace


class Kept:
    """A place for changes that can be away."""

    def __init__(self) -> None:
        self.changes: list[Transition] = []
        self.is_away = False

    def add(self, changes: Sequence[Transition]) -> None:
        if self.is_away:
            raise StoreError(StoreErrorKind.LOCKED, "The database is locked.")
        self.changes += changes

    def recent(self, limit: int = 100) -> list[Transition]:
        return self.changes[-limit:]


class Router:
    """What a watch asks; `defects` is how often that fails first."""

    def __init__(self, defects: int = 0) -> None:
        self.defects = defects
        self.store = TraceHealth(0, 0, 0, "", 0.0, 0)
        self.kept = Kept()
        self.exported: list[Trace] = []
        self.watch = Watch(
            fleet=Fleet,
            queue=lambda: QueueView(0, 0, (), ()),
            facts=self.facts,
            store=lambda: self.store,
            history=self.kept,
            export=self.exported.append,
        )

    def facts(self) -> RouterFacts:
        if self.defects:
            self.defects -= 1
            raise LookupError("a defect")
        return RouterFacts()


@contextlib.asynccontextmanager
async def watching(router: Router) -> AsyncIterator[Router]:
    running = spawn(router.watch.run(), name="watch")
    try:
        yield router
    finally:
        await cancel_and_wait(running)


async def until(holds: Callable[[], bool]) -> None:
    """Within 15 s."""
    until_s = monotonic_s() + 15.0
    while not holds():
        assert monotonic_s() < until_s
        await asyncio.sleep(0.02)


async def test_a_defect_costs_one_look() -> None:
    async with watching(Router(defects=1)) as router:
        router.watch.put(trace())
        await until(lambda: len(router.exported) == 1)
        await until(lambda: router.defects == 0)
        router.watch.put(trace())
        await until(lambda: len(router.exported) == 2)
        (counts,) = router.watch.totals().values()
        assert counts.requests == 2
        assert router.watch.health.overall is Severity.OK


async def test_changes_wait_for_the_store() -> None:
    async with watching(Router()) as router:
        router.kept.is_away = True
        router.store = TraceHealth(0, 0, 5, "The disk is full.", 1.0, 0)
        await until(lambda: router.watch.health.overall is Severity.WARNING)
        assert router.kept.changes == []
        router.kept.is_away = False
        await until(lambda: len(router.kept.changes) == 1)
        assert (router.kept.changes[0].code, router.kept.changes[0].after) == ("store", "warning")
        assert router.watch.changes(10) == router.kept.changes


async def test_what_was_lost_long_ago_is_no_news() -> None:
    router = Router()
    router.store = TraceHealth(0, 9, 0, "", 0.0, 0)
    assert router.watch.health.overall is Severity.OK
