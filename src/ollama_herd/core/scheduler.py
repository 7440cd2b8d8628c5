"""When and where each request runs: late binding over the router's own queue.

A request waits here, bound to no node, unless its cheapest place can start it now. Synchronous
and pure; `router/dispatcher.py` owns the one instance and turns the effects into granted slots.
"""

from collections.abc import Iterable, Sequence

import msgspec

from ollama_herd.core import learning
from ollama_herd.core.decision import RouteDecision
from ollama_herd.core.effects import Effect, Grant, Refuse
from ollama_herd.core.explanation import Explanation, explanation
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.inflight import ReplicaLoad, Running
from ollama_herd.core.load import Load
from ollama_herd.core.names import canonical_name
from ollama_herd.core.pins import Pin, Pinned, Pins, Wish, keeping_request
from ollama_herd.core.place import Priced
from ollama_herd.core.predict import Predictor, SlotKey
from ollama_herd.core.queue import QueueSettings, QueueView, no_place, refusal, view
from ollama_herd.core.renewal import Renewals
from ollama_herd.core.request import (
    InferenceRequest,
    Kind,
    OutcomeKind,
    RefusalKind,
    Usage,
)
from ollama_herd.core.residency import Residency, options_in_demand
from ollama_herd.core.retry import ERRORS, FAULTS, may_hedge
from ollama_herd.core.routing import Ranking, explain, is_waiting_for_report, rank, service_s
from ollama_herd.core.runner import options_at
from ollama_herd.core.shares import Shares, work
from ollama_herd.core.signals import Ask
from ollama_herd.core.turns import Turns
from ollama_herd.core.waiting import Pending, WaitingRoom
from ollama_herd.core.waits import expected_starts

__all__ = ["Effect", "Grant", "QueueSettings", "QueueView", "Refuse", "Scheduler"]

EXPLAINED = 64
"""Of the requests that time out in one tick so many are refused with the places there were for
them: a whole queue that ends at once must not hold up the others."""

TICK_S = 0.9
"""A little less than the second between ticks, so that jitter skips none."""


class Scheduler:
    """Each request resolves exactly once: granted (and later ended), refused, or cancelled."""

    def __init__(self, settings: QueueSettings, predictor: Predictor) -> None:
        self._settings = settings
        self._load = Load(predictor)
        self._room = WaitingRoom()
        self._granted: dict[str, Pending] = {}
        self._twins: set[str] = set()
        self._shares = Shares()
        self._fleet = Fleet()
        self._ticked_s = float("-inf")
        self._residency = Residency()
        self._pins = Pins()
        self._renewals = Renewals()
        self._turns = Turns(settings, self._load, self._room, self._shares, self._grant)
        self._placed = 0

    @property
    def load(self) -> Load:
        """What is in flight; for `decide`, views and canaries, not to be changed by others."""
        return self._load

    def queue_by(self, settings: QueueSettings) -> None:
        """Other bounds from now on; who waits already keeps the place."""
        self._settings = settings
        self._turns.queue_by(settings)

    def on_request(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Effect]:
        """A request arrived: granted at once, held, or refused."""
        self._look_at_time(fleet, now_s)
        self._fleet = fleet
        ask = Ask(request, fleet.nodes, self._load, now_s)
        ranking = rank(ask, fleet)
        priced = ranking.priced
        if request.prefix and priced:
            self._load.saw_prompt(request, now_s)
        if not priced:
            refused = no_place(request, fleet, ranking.rejected)
            if refused is not None:
                return (Refuse(request.request_id, refused, ranking.rejected),)
        elif (
            priced[0].starts_now
            and not priced[0].context
            and request.model_key not in self._room.models
        ):
            return (self._grant(Pending(request, 0.0), ranking),)
        return self._enqueue(request, ranking, now_s)

    def on_first_byte(self, request_id: str, now_s: float) -> None:
        """The first byte of the answer came from the engine."""
        run = self._load.running.get(request_id)
        if run is not None:
            self._load.first_byte(run, now_s)

    def on_finished(
        self,
        request_id: str,
        outcome: OutcomeKind,
        usage: Usage | None,
        fleet: Fleet,
        now_s: float,
        *,
        at_once: bool = False,
    ) -> Sequence[Effect]:
        """The request ended for good. Only a completed answer teaches the predictor. `at_once` when
        the first byte, not told before, came with the last.
        """
        pending = self._granted.pop(request_id, None)
        if pending is None:
            return ()
        output = usage.output_tokens if usage is not None else None
        run = self._end(request_id, outcome, now_s, output, at_once=at_once)
        if outcome is OutcomeKind.COMPLETED:
            learning.learn(self._load, run, usage, now_s)
            self._load.answered(run)
            for key in pending.blamed:
                self._blame(key, now_s)
        self._fleet = fleet
        if not self._room.pending:
            return ()
        return self._turns.take(self._models_on(run.replica, fleet), fleet, now_s)

    def on_retry(
        self, request_id: str, outcome: OutcomeKind, fleet: Fleet, now_s: float
    ) -> Sequence[Effect]:
        """An attempt failed before its first byte: try another replica, at the old place in
        the queue. Refused when none is left that was not tried.
        """
        pending = self._granted.pop(request_id, None)
        if pending is None:
            return ()
        run = self._end(request_id, outcome, now_s)
        pending.excluded |= {run.replica.key}
        if outcome in ERRORS:
            pending.blamed += (run.replica.key,)
        self._fleet = fleet
        request = pending.request
        ask = Ask(request, fleet.nodes, self._load, now_s)
        ranking = rank(ask, fleet, pending.excluded)
        if not ranking.priced and not is_waiting_for_report(ranking.rejected):
            refused = refusal(RefusalKind.NO_NODE, request, fleet, ranking.rejected)
            return (
                Refuse(request_id, refused, ranking.rejected),
                *self._turns.take(self._models_on(run.replica, fleet), fleet, now_s),
            )
        pending.estimate_s = service_s(ranking.priced)
        self._room.add(pending)
        models = {request.model_key, *self._models_on(run.replica, fleet)}
        return self._turns.take(models, fleet, now_s)

    def on_hedge(self, request_id: str, twin_id: str, fleet: Fleet, now_s: float) -> Grant | None:
        """The request's engine is silent: a second try on another node that can start it now.

        The twin is a request of its own: each of the two ends once, see `on_lost`. The bound on
        second tries is not for a runner that has shown by one of them that it hangs: what it holds
        is moved, not doubled.
        """
        pending, run = self._granted.get(request_id), self._load.running.get(request_id)
        if pending is None or run is None:
            return None
        is_few = may_hedge(len(self._twins), len(self._load.running))
        if not is_few and run.replica.silent_s is None:
            return None
        twin = pending.twin(twin_id, run.replica.key)
        ranking = rank(Ask(twin.request, fleet.nodes, self._load, now_s), fleet, twin.excluded)
        elsewhere = [p for p in ranking.priced if p.starts_now and _is_sound(p, run, now_s)]
        if not elsewhere:
            return None
        self._twins.add(twin_id)
        return self._grant(twin, ranking._replace(priced=elsewhere))

    def on_lost(
        self, loser_id: str, outcome: OutcomeKind, keeper_id: str, fleet: Fleet, now_s: float
    ) -> Sequence[Effect]:
        """One of two tries of a request ended; the other goes on, and knows what failed."""
        self._twins.discard(keeper_id)  # it is no second try any more
        keeper, run = self._granted.get(keeper_id), self._load.running.get(loser_id)
        if keeper is not None and run is not None:
            keeper.excluded |= {run.replica.key}
            if outcome in ERRORS:
                keeper.blamed += (run.replica.key,)
        return self.on_finished(loser_id, outcome, None, fleet, now_s)

    def on_cancel(self, request_id: str, fleet: Fleet, now_s: float) -> Sequence[Effect]:
        """The client left, whether its request waits or runs."""
        if self._room.remove(request_id) is not None:
            return ()
        return self.on_finished(request_id, OutcomeKind.CANCELLED, None, fleet, now_s)

    def on_fleet(self, fleet: Fleet, now_s: float) -> Sequence[Effect]:
        """The fleet changed, or a second passed."""
        is_tick = now_s - self._ticked_s >= TICK_S
        is_same = fleet.replicas is self._fleet.replicas
        self._fleet = fleet
        if is_tick:
            self._refresh(fleet, now_s)
        elif is_same:
            return ()
        else:
            self._load.sync(fleet)
        if not self._room.pending:
            return ()
        effects: list[Effect] = list(self._timed_out(fleet, now_s))
        effects += self._turns.take(list(self._room.models), fleet, now_s)
        return effects

    def on_drain(self, fleet: Fleet) -> Sequence[Effect]:
        """The router shuts down: what still waits is refused, what runs goes on."""
        waiting = [pending.request for pending in self._room.pending.values()]
        for request in waiting:
            self._room.remove(request.request_id)
        return [
            Refuse(request.request_id, refusal(RefusalKind.DRAINING, request, fleet))
            for request in waiting
        ]

    def place(self, fleet: Fleet, now_s: float) -> Sequence[Grant]:
        """Loads worth starting before anybody waits for them, as requests of the herd's own."""
        grants = []
        wishes = self._pins.plan(self._load, fleet, now_s)
        if self._settings.placement:
            planned = self._residency.plan(self._load, self._room, fleet, now_s)
            wishes += [Wish(replica) for replica in planned]
            wishes += self._renewals.plan(self._load, fleet, now_s)
        for wish in wishes:
            self._placed += 1
            replica = wish.replica
            name = canonical_name(replica.replica.model.name)
            if replica.is_hot:
                options = replica.options or ()
            else:
                options = options_in_demand(replica, name, self._load, self._room)
            request = keeping_request(
                name, f"load-{self._placed}", now_s, wish.keep_alive_s, options
            )
            ranking = rank(Ask(request, fleet.nodes, self._load, now_s), fleet)
            there = [p for p in ranking.priced if p.place.load is replica and p.starts_now]
            if replica.is_hot:  # to be kept as it is
                there = [p for p in there if not p.context]
            if there and (replica.is_hot or not wish.is_renewal):
                grants.append(self._grant(Pending(request, 0.0), ranking._replace(priced=there)))
        return grants

    def on_measure(
        self, request: InferenceRequest, where: SlotKey, fleet: Fleet, now_s: float
    ) -> Grant | None:
        """A measurement on one replica, None when it cannot start there now, or not alone."""
        ranking = rank(Ask(request, fleet.nodes, self._load, now_s), fleet)
        there = [p for p in ranking.priced if p.place.load.key == where and p.starts_now]
        if not there or there[0].place.load.running:
            return None
        return self._grant(Pending(request, 0.0), ranking._replace(priced=there))

    def on_measured(
        self, request_id: str, outcome: OutcomeKind, usage: Usage | None, fleet: Fleet, now_s: float
    ) -> Sequence[Effect]:
        """It has ended. Its length was ours to choose, and is no lesson about answers."""
        run = self._load.running.get(request_id)
        if run is not None and usage is not None and usage.output_tokens:
            run.request = msgspec.structs.replace(run.request, work=usage.output_tokens)
        return self.on_finished(request_id, outcome, usage, fleet, now_s)

    def pin(self, pins: tuple[Pin, ...]) -> None:
        """Keep these models loaded from now on, and no others."""
        self._pins.replace(pins)

    def pinned(self) -> tuple[Pinned, ...]:
        """How the pins stand."""
        return self._pins.view(self._load, self._fleet)

    def explain(self, request: InferenceRequest, now_s: float) -> Explanation:
        """Where the request would go now, and why; nothing changes by asking."""
        queue = self._room.models.get(request.model_key)
        waiting = queue.count if queue is not None else 0
        return explanation(request, self._fleet, self._load, waiting, now_s)

    def queue(self, now_s: float) -> QueueView:
        """Who runs and who waits, by replica, with positions and expected waits."""
        return view(self._load, self._room, self._fleet, self._shares, now_s)

    def _look_at_time(self, fleet: Fleet, now_s: float) -> None:
        if now_s - self._ticked_s >= TICK_S:
            self._refresh(fleet, now_s)

    def _refresh(self, fleet: Fleet, now_s: float) -> None:
        self._ticked_s = now_s
        self._load.refresh(fleet, now_s)
        self._turns.renew(now_s)
        self._shares.forget(now_s)

    def _enqueue(
        self, request: InferenceRequest, ranking: Ranking, now_s: float
    ) -> Sequence[Effect]:
        waiting = len(self._room)
        pending = Pending(request, service_s(ranking.priced))
        self._room.add(pending)
        effects = self._turns.take((request.model_key,), self._fleet, now_s)
        if waiting < self._settings.limit or request.request_id not in self._room.pending:
            return effects
        self._room.remove(request.request_id)
        refused = refusal(
            RefusalKind.QUEUE_FULL,
            request,
            self._fleet,
            waiting=waiting,
            expected_s=self._expected(request.model_key, now_s)[""][1],
        )
        places = explain(ranking)
        refuse = Refuse(request.request_id, refused, places.eliminated, places.candidates)
        return (*effects, refuse)

    def _expected(self, model_key: str, now_s: float) -> dict[str, tuple[int, float]]:
        """By request, how many of the model are before it and when it should start, in s; by ""
        of one that comes now.
        """
        board = self._load.board(model_key, self._fleet)
        listed = self._room.listed(model_key, self._shares, now_s)
        starts = expected_starts(board.places if board else (), listed, now_s)
        ids = [*(pending.request.request_id for pending in listed), ""]
        return {key: (number, starts[number]) for number, key in enumerate(ids)}

    def _grant(self, pending: Pending, ranking: Ranking) -> Grant:
        request_id = pending.request.request_id
        best = ranking.priced[0]
        replica = best.place.load
        is_load = not (replica.is_hot or replica.running)
        victims = replica.victims if is_load else ()
        for victim in replica.displaced if is_load else ():
            self._load.evicted(victim, ranking.ask.now_s)
        self._start(ranking.ask, best)
        self._granted[request_id] = pending
        decision = explain(ranking)
        if victims:
            gone = tuple([self._load.evicted(victim, ranking.ask.now_s) for victim in victims])
            decision = msgspec.structs.replace(decision, evicts=gone)
        return Grant(request_id, decision)

    def _start(self, ask: Ask, best: Priced) -> None:
        """Take the slot and write down what is expected of it."""
        request, now_s = ask.request, ask.now_s
        replica = best.place.load
        node = replica.node
        pace, rates, running, output = node.pace, replica.rates, len(replica.running), ask.output
        ready_s = best.wait + best.load + best.context
        options = options_at(best.place, ask.options)
        is_cold = best.context > 0 or not (replica.is_hot or running)
        run = Running(
            request,
            replica,
            node,
            options,
            now_s,
            now_s + ready_s + best.prefill,
            ask.prompt,
            best.cached,
            output,
            best.prefill / pace.bias_prefill,
            best.decode / output / pace.bias_decode if output else 0.0,
            rates.step_s * (1 + pace.alpha * (running - 1)) if running else 0.0,
            work(ask.prompt, best.cached, output),
            is_cold,
            is_cold or ask.chain != (),
            running >= replica.slots,
        )
        if is_cold:
            replica.begin_loading(options, now_s + ready_s, now_s)
        if request.keep_alive_s is not None:
            replica.keep_alive_s = request.keep_alive_s
        if ask.chain or (replica.mirror.slots and request.kind is not Kind.EMBED):
            replica.mirror.take(ask.chain, replica.slots, request.request_id, now_s)
        node.add_busy(best.prefill + best.decode, replica.slots)
        self._load.start(run, now_s)
        self._shares.started(request.client, run.share_tokens)

    def _end(
        self,
        request_id: str,
        outcome: OutcomeKind,
        now_s: float,
        output: float | None = None,
        *,
        at_once: bool = False,
    ) -> Running:
        """The request left its replica, with so many tokens of answer if that is known."""
        load = self._load
        run = load.running[request_id]
        answered = outcome is OutcomeKind.COMPLETED
        self._twins.discard(request_id)
        load.end(run, now_s, answered=answered, at_once=at_once)
        replica = run.replica
        if replica.mirror.slots:
            kept = answered or (outcome is OutcomeKind.CANCELLED and run.first_byte_s >= 0)
            replica.mirror.release(request_id, replica.slots, now_s, kept=kept)
        if output is None:
            output = run.output if answered else 0.0
        taken = run.share_tokens + output - run.output
        self._shares.ended(run.request.client, run.share_tokens, taken, now_s)
        if outcome is OutcomeKind.CLIENT_ERROR and run.is_cold and not replica.running:
            load.doubt(replica)
        if outcome is OutcomeKind.UNREACHABLE:
            load.unreachable(replica, now_s)
        elif outcome in FAULTS:
            load.failed(run, outcome, now_s)
        return run

    def _blame(self, key: tuple[str, str, str], now_s: float) -> None:
        replica = self._load.replicas.get(key)
        if replica is not None:
            self._load.blame(replica, now_s)

    def _models_on(self, freed: ReplicaLoad, fleet: Fleet) -> list[str]:
        """Models with waiting requests that the node of `freed` could take."""
        node_id = freed.key[0]
        found = []
        for model_key in self._room.models:
            board = self._load.board(model_key, fleet)
            if board is not None and node_id in board.node_ids:
                found.append(model_key)
        return found

    def _timed_out(self, fleet: Fleet, now_s: float) -> Iterable[Effect]:
        limit_s = self._settings.timeout_s
        overdue = [
            pending
            for pending in self._room.pending.values()
            if now_s - pending.request.arrived_s >= limit_s
        ]
        expected = {
            key: self._expected(key, now_s) for key in {p.request.model_key for p in overdue}
        }
        for number, pending in enumerate(overdue):
            request = pending.request
            places = RouteDecision(request.model_key, ())
            if number < EXPLAINED:
                ask = Ask(request, fleet.nodes, self._load, now_s)
                places = explain(rank(ask, fleet, pending.excluded))
            position, expected_s = expected[request.model_key][request.request_id]
            self._room.remove(request.request_id)
            refused = refusal(
                RefusalKind.QUEUE_TIMEOUT,
                request,
                fleet,
                waiting=position,
                waited_s=now_s - request.arrived_s,
                expected_s=expected_s,
            )
            yield Refuse(request.request_id, refused, places.eliminated, places.candidates)


def _is_sound(priced: Priced, silent: Running, now_s: float) -> bool:
    """Whether a second try there makes sense: another machine, and not one that keeps failing."""
    place = priced.place
    load = place.load
    is_sound = load.stuck is None and load.barred_until_s <= now_s
    return is_sound and place.node is not silent.node
