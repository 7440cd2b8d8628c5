"""The scheduler of a fake Ollama: loads, slots, eviction and keep-alive as the real one has them.

A request for a loaded runner with fitting options waits for a slot, without bound and first come
first served. One that needs a load goes through a single queue of `max_queue`; when that is full
it gets 503. Runners are known by weights, so aliases share one; `/api/ps` names the first alias.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from ollama_herd import clock
from tests.fakes.models import FakeModel
from tests.fakes.state import State

FOREVER_S = 292.27 * 365.25 * 86400
"""Go's longest duration, which a negative keep-alive becomes (expires in the year 2319)."""

LOAD_OPTIONS = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}
)


class QueueFullError(Exception):
    """More requests wait for a load than the queue holds."""


@dataclass
class Runner:
    """A loaded model. `slots` are taken in the order of asking."""

    model: FakeModel
    options: tuple[tuple[str, object], ...]
    context_length: int
    keep_alive_s: float
    in_flight: int = 0
    expires_s: float = 0.0
    is_leaving: bool = False
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Runners:
    """Owns the runners of one fake; used from its loop only."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.loaded: dict[str, Runner] = {}
        self._pending = 0
        self._loading = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def slot(
        self, model: FakeModel, options: dict[str, object], keep_alive_s: float | None
    ) -> AsyncIterator[tuple[Runner, float]]:
        """A slot of a fitting runner and the seconds its load took. Raises QueueFullError."""
        counters = self._state.counters
        begun_s = clock.monotonic_s()
        counters.waiting += 1
        self._state.changed()
        try:
            runner = await self._fitting(model, options)
            load_s = clock.monotonic_s() - begun_s
            if keep_alive_s is not None:
                runner.keep_alive_s = keep_alive_s
            await self._take(runner)
        finally:
            counters.waiting -= 1
            self._state.changed()
        counters.started += 1
        counters.in_flight += 1
        counters.max_in_flight = max(counters.max_in_flight, counters.in_flight)
        most = counters.max_in_flight_by_model
        most[model.name] = max(most[model.name], runner.in_flight)
        self._state.changed()
        try:
            yield runner, load_s
        finally:
            counters.in_flight -= 1
            self._release(runner)
            self._state.changed()

    async def load(
        self, model: FakeModel, options: dict[str, object], keep_alive_s: float | None
    ) -> None:
        """Load without a prompt. Raises QueueFullError."""
        runner = await self._fitting(model, options)
        if keep_alive_s is not None:  # else the one in force stays
            runner.keep_alive_s = keep_alive_s
        self._touch(runner)

    def unload(self, model: FakeModel) -> None:
        """Expire a runner; it goes once its requests have ended."""
        runner = self.loaded.get(model.weights)
        if runner is None:
            return
        runner.keep_alive_s = 0.0
        self._touch(runner)

    def expire(self) -> None:
        """Drop what is idle and past its keep-alive."""
        now_s = clock.now_s()
        for key, runner in list(self.loaded.items()):
            if runner.in_flight == 0 and not runner.waiting and runner.expires_s <= now_s:
                del self.loaded[key]

    async def _fitting(self, model: FakeModel, options: dict[str, object]) -> Runner:
        self.expire()
        wanted = tuple(sorted((k, v) for k, v in options.items() if k in LOAD_OPTIONS))
        runner = self.loaded.get(model.weights)
        if runner is not None and not runner.is_leaving and self._fits(runner, wanted):
            return runner
        if self._pending > self._state.settings.max_queue:
            raise QueueFullError
        self._pending += 1
        try:
            async with self._loading:
                return await self._load(model, wanted)
        finally:
            self._pending -= 1

    def _fits(self, runner: Runner, wanted: tuple[tuple[str, object], ...]) -> bool:
        context = dict(wanted).get("num_ctx", self._state.settings.default_context)
        rest = tuple(pair for pair in wanted if pair[0] != "num_ctx")
        return runner.context_length == context and runner.options == rest

    async def _load(self, model: FakeModel, wanted: tuple[tuple[str, object], ...]) -> Runner:
        known = self.loaded.get(model.weights)
        if known is not None and not known.is_leaving and self._fits(known, wanted):
            return known
        if known is not None:
            await self._evict(model.weights)
        while len(self.loaded) >= self._state.settings.max_loaded:
            await self._evict(self._least_needed())
        counters = self._state.counters
        try:
            await asyncio.sleep(self._state.settings.load_ms / 1000)
        except asyncio.CancelledError:
            counters.aborted_loads += 1
            raise
        context = dict(wanted).get("num_ctx", self._state.settings.default_context)
        assert isinstance(context, int)
        runner = Runner(
            model=model,
            options=tuple(pair for pair in wanted if pair[0] != "num_ctx"),
            context_length=context,
            keep_alive_s=self._state.settings.keep_alive_s,
        )
        self._touch(runner)
        self.loaded[model.weights] = runner
        counters.loads += 1
        self._state.changed()
        return runner

    def _least_needed(self) -> str:
        return min(self.loaded, key=lambda k: (self.loaded[k].in_flight, self.loaded[k].expires_s))

    async def _evict(self, key: str) -> None:
        runner = self.loaded[key]
        runner.is_leaving = True
        while runner.in_flight or runner.waiting:
            runner.idle.clear()
            await runner.idle.wait()
        self.loaded.pop(key, None)
        self._state.counters.evictions += 1
        self._state.changed()

    async def _take(self, runner: Runner) -> None:
        if runner.in_flight < self._state.settings.num_parallel and not runner.waiting:
            runner.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        runner.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(runner)
            else:
                with contextlib.suppress(ValueError):
                    runner.waiting.remove(turn)
            raise

    def _release(self, runner: Runner) -> None:
        runner.in_flight -= 1
        while runner.waiting and runner.in_flight < self._state.settings.num_parallel:
            turn = runner.waiting.popleft()
            if not turn.done():
                runner.in_flight += 1
                turn.set_result(None)
        self._touch(runner)
        if runner.in_flight == 0:
            runner.idle.set()

    def _touch(self, runner: Runner) -> None:
        alive_s = FOREVER_S if runner.keep_alive_s < 0 else runner.keep_alive_s
        runner.expires_s = clock.now_s() + alive_s
