"""Owns the scheduler: turns its effects into granted slots. No `await` while its state changes.

A waiter that is cancelled in the tick in which it was granted calls `cancelled`, which gives the
slot back: the request path does so whenever it ends early.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from ollama_herd.clock import monotonic_s, now_s, week_s
from ollama_herd.core.canary import Canaries, Canary, CanarySettings
from ollama_herd.core.explanation import Explanation
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import Replica, StuckRunner
from ollama_herd.core.pins import Pin, Pinned
from ollama_herd.core.queue import QueueSettings
from ollama_herd.core.request import InferenceRequest, OutcomeKind, Usage
from ollama_herd.core.routing import RouteDecision
from ollama_herd.core.scheduler import Effect, Grant, QueueView, Refuse, Scheduler
from ollama_herd.core.silence import Expectation

_NOTHING_EXPECTED = Expectation(0.0)


class Refused(Exception):  # noqa: N818 - an answer to a client, not a defect
    """The scheduler will not place the request; `refusal` tells the client why, `rejected` which
    places could not take it, `candidates` which could have, had it waited longer.
    """

    def __init__(self, refuse: Refuse) -> None:
        super().__init__(refuse.refusal.message)
        self.refusal = refuse.refusal
        self.rejected = refuse.rejected
        self.candidates = refuse.candidates


class Dispatcher:
    """Give it each new fleet and a tick a second; ask it for slots."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._load: Callable[[RouteDecision, InferenceRequest], None] | None = None
        self._ask: Callable[[Canary], None] | None = None
        self._canaries = Canaries(scheduler.load, CanarySettings())
        self._tell_stuck: Callable[[tuple[StuckRunner, ...]], None] | None = None
        self._waiting: dict[str, asyncio.Future[RouteDecision]] = {}
        self._fleet = Fleet()

    def fleet_changed(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._settle(self._scheduler.on_fleet(fleet, monotonic_s()))

    def load_with(self, load: Callable[[RouteDecision, InferenceRequest], None]) -> None:
        """Who carries out loads ahead of requests: `load(decision, request)`; each ends in
        `finished(id)`.
        """
        self._load = load

    def ask_idle_with(self, ask: Callable[[Canary], None]) -> None:
        """Who carries out canaries: `ask(canary)` ends in `canary_ended(canary, …)`."""
        self._ask = ask

    def ask_idle_by(self, settings: CanarySettings) -> None:
        """Plan canaries by these settings from now on."""
        self._canaries.settings = settings

    def tell_stuck(self, tell: Callable[[tuple[StuckRunner, ...]], None]) -> None:
        """Who hears, at each tick, which runners hang."""
        self._tell_stuck = tell

    def queue_by(self, settings: QueueSettings) -> None:
        """Other bounds of the queue from now on."""
        self._scheduler.queue_by(settings)

    def tick(self) -> None:
        """Let held requests time out and be looked at again; load what will be needed, and ask
        what is idle whether it still answers.
        """
        tick_s = monotonic_s()
        load = self._scheduler.load
        load.monday_s, load.wall_s = tick_s - week_s(), now_s() - tick_s
        self._settle(self._scheduler.on_fleet(self._fleet, tick_s))
        if self._load is not None:
            for grant in self._scheduler.place(self._fleet, tick_s):
                run = self._scheduler.load.running[grant.request_id]
                self._load(grant.decision, run.request)
        if self._ask is not None:
            for canary in self._canaries.plan(self._fleet, tick_s, now_s()):
                self._ask(canary)
        if self._tell_stuck is not None:
            self._tell_stuck(self._scheduler.load.stuck_runners())

    def canary_ended(self, canary: Canary, outcome: OutcomeKind) -> None:
        """What came of a canary."""
        self._canaries.ended(canary, outcome, monotonic_s())

    def drain(self) -> None:
        """Refuse what waits: the router is about to end."""
        self._settle(self._scheduler.on_drain(self._fleet))

    def pin(self, pins: tuple[Pin, ...]) -> None:
        """Keep these models loaded from now on, and no others."""
        self._scheduler.pin(pins)

    def pinned(self) -> tuple[Pinned, ...]:
        """How the pins stand."""
        return self._scheduler.pinned()

    def queue(self) -> QueueView:
        """Who waits and who runs, per node and model, now."""
        return self._scheduler.queue(monotonic_s())

    def explain(self, request: InferenceRequest) -> Explanation:
        """Where this request would go now, and why; it is not sent."""
        return self._scheduler.explain(request, monotonic_s())

    def grant(
        self, request: InferenceRequest
    ) -> RouteDecision | Coroutine[Any, Any, RouteDecision]:
        """A slot, or what waits for one. Raises Refused when it is awaited; a cancelled waiter
        leaves nothing behind.
        """
        effects = self._scheduler.on_request(request, self._fleet, monotonic_s())
        if len(effects) == 1:
            only = effects[0]
            if isinstance(only, Grant) and only.request_id == request.request_id:
                return only.decision  # a free slot, as most often
        return self._granted(request.request_id, effects)

    async def retry(self, request_id: str, outcome: OutcomeKind) -> RouteDecision:
        """Give back the slot of a failed attempt and wait for one on another replica."""
        effects = self._scheduler.on_retry(request_id, outcome, self._fleet, monotonic_s())
        return await self._granted(request_id, effects)

    def hedge(self, request_id: str, twin_id: str) -> RouteDecision | None:
        """A second slot for a silent request, on another node, if one is free now."""
        grant = self._scheduler.on_hedge(request_id, twin_id, self._fleet, monotonic_s())
        return None if grant is None else grant.decision

    def lost(self, loser_id: str, outcome: OutcomeKind, keeper_id: str) -> None:
        """One of two tries of a request ended, the other goes on."""
        lost_s = monotonic_s()
        self._settle(self._scheduler.on_lost(loser_id, outcome, keeper_id, self._fleet, lost_s))

    def measure(self, request: InferenceRequest, replica: Replica) -> RouteDecision | None:
        """A slot for a measurement there, if it can start now; ends in `measured`."""
        where, now = replica.slot_key, monotonic_s()
        grant = self._scheduler.on_measure(request, where, self._fleet, now)
        return None if grant is None else grant.decision

    def measured(self, request_id: str, outcome: OutcomeKind, usage: Usage | None) -> None:
        """The measurement has ended; its slot is free."""
        now = monotonic_s()
        self._settle(self._scheduler.on_measured(request_id, outcome, usage, self._fleet, now))

    def expectation(self, request_id: str) -> Expectation:
        """What was predicted of a running request."""
        run = self._scheduler.load.running.get(request_id)
        return _NOTHING_EXPECTED if run is None else run.expectation()

    def first_byte(self, request_id: str) -> None:
        self._scheduler.on_first_byte(request_id, monotonic_s())

    def finished(
        self, request_id: str, outcome: OutcomeKind, usage: Usage | None, *, at_once: bool = False
    ) -> None:
        """The slot is free; what was seen teaches the predictor. `at_once` when the first byte,
        not told before, came with the last.
        """
        effects = self._scheduler.on_finished(
            request_id, outcome, usage, self._fleet, monotonic_s(), at_once=at_once
        )
        if effects:
            self._settle(effects)

    def cancelled(self, request_id: str) -> None:
        """The client left, wherever the request is."""
        self._settle(self._scheduler.on_cancel(request_id, self._fleet, monotonic_s()))

    async def _granted(self, request_id: str, effects: Iterable[Effect]) -> RouteDecision:
        mine: Effect | None = None
        for effect in effects:
            if effect.request_id == request_id:
                mine = effect
            else:
                self._resolve(effect)
        if mine is not None:
            if isinstance(mine, Grant):
                return mine.decision
            raise Refused(mine)
        future: asyncio.Future[RouteDecision] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            return await future
        finally:
            self._waiting.pop(request_id, None)

    def _settle(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._resolve(effect)

    def _resolve(self, effect: Effect) -> None:
        future = self._waiting.get(effect.request_id)
        if future is None or future.done():
            return  # its task was cancelled in this tick and will call `cancelled` itself
        if isinstance(effect, Grant):
            future.set_result(effect.decision)
        else:
            future.set_exception(Refused(effect))
