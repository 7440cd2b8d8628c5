"""When and where each request runs: late binding over the router's own queue.

A request waits here, bound to no node, unless its cheapest place can start it now. Synchronous
and pure; `router/dispatcher.py` owns the one instance and turns the effects into granted slots.
"""

from collections.abc import Collection, Iterable, Sequence

from ollama_herd.core import learning
from ollama_herd.core.decision import Rejected
from ollama_herd.core.effects import Effect, Grant, Refuse
from ollama_herd.core.explanation import Explanation, explanation
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.inflight import ReplicaLoad, Running
from ollama_herd.core.load import Load
from ollama_herd.core.predict import Predictor
from ollama_herd.core.queue import QueueSettings, QueueView, refusal, view
from ollama_herd.core.remaining import remaining_times
from ollama_herd.core.request import (
    InferenceRequest,
    Kind,
    OutcomeKind,
    Refusal,
    RefusalKind,
    Usage,
)
from ollama_herd.core.residency import Residency, loading_request
from ollama_herd.core.retry import ERRORS, FAULTS, may_hedge
from ollama_herd.core.routing import Ranking, explain, is_waiting_for_report, rank, service_s
from ollama_herd.core.signals import Ask, Priced
from ollama_herd.core.waiting import LaneKey, Pending, WaitingRoom

__all__ = ["Effect", "Grant", "QueueSettings", "QueueView", "Refuse", "Scheduler"]

LOOKAHEAD = 8
"""Held requests of one model looked at in a pass (routing study)."""

HELD_LOOKS = 32
"""Held requests looked at in one pass over several models; the next tick looks further."""

MAX_ROUNDS = 8

STARVED_S = 30.0
"""A request that waited so long for busy models to make room has its node kept free for it."""

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
        self._running_of: dict[str, int] = {}
        self._fleet = Fleet()
        self._ticked_s = float("-inf")
        self._residency = Residency()
        self._placed = 0

    @property
    def load(self) -> Load:
        """What is in flight; for `decide` and for views, not to be changed."""
        return self._load

    def on_request(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Effect]:
        """A request arrived: granted at once, held, or refused."""
        if now_s - self._ticked_s >= TICK_S:
            self._refresh(fleet, now_s)
        self._fleet = fleet
        ask = Ask(request, fleet.nodes, self._load, now_s)
        ranking = rank(ask, fleet)
        priced = ranking.priced
        if request.prefix and priced:
            self._load.saw_prompt(request, now_s)
        if not priced:
            refused = self._no_place(request, ranking.rejected)
            if refused is not None:
                return (Refuse(request.request_id, refused),)
        elif priced[0].starts_now and request.model_key not in self._room.models:
            return (self._grant(Pending(request, 0.0), ranking),)
        return self._enqueue(request, priced, now_s)

    def on_first_byte(self, request_id: str, now_s: float) -> None:
        """The first byte of the answer came from the engine."""
        run = self._load.running.get(request_id)
        if run is not None:
            self._load.first_byte(run, now_s)

    def on_progress(self, request_id: str, output_tokens: int, now_s: float) -> None:
        """`output_tokens` came so far; sharpens the prediction of when the slot frees."""
        run = self._load.running.get(request_id)
        if run is not None and output_tokens > run.tokens:
            run.tokens = output_tokens
            if run.first_byte_s < 0:
                self._load.first_byte(run, now_s)

    def on_finished(
        self,
        request_id: str,
        outcome: OutcomeKind,
        usage: Usage | None,
        fleet: Fleet,
        now_s: float,
    ) -> Sequence[Effect]:
        """The request ended for good. Only a completed answer teaches the predictor."""
        pending = self._granted.pop(request_id, None)
        if pending is None:
            return ()
        run = self._end(request_id, outcome, now_s)
        if outcome is OutcomeKind.COMPLETED:
            learning.learn(self._load, run, usage, now_s)
            self._load.absolve(run.replica)
            for key in pending.blamed:
                self._blame(key, now_s)
        self._fleet = fleet
        if not self._room.pending:
            return ()
        return self._pass(self._models_on(run.replica, fleet), fleet, now_s)

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
                Refuse(request_id, refused),
                *self._pass(self._models_on(run.replica, fleet), fleet, now_s),
            )
        pending.estimate_s = service_s(ranking.priced)
        self._room.add(pending)
        models = {request.model_key, *self._models_on(run.replica, fleet)}
        return self._pass(models, fleet, now_s)

    def on_hedge(self, request_id: str, twin_id: str, fleet: Fleet, now_s: float) -> Grant | None:
        """The request's engine is silent: a second try on another node that can start it now.

        The twin is a request of its own: each of the two ends once, see `on_lost`.
        """
        pending, run = self._granted.get(request_id), self._load.running.get(request_id)
        in_flight = len(self._load.running)
        if pending is None or run is None or not may_hedge(len(self._twins), in_flight):
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
        effects += self._pass(list(self._room.models), fleet, now_s)
        return effects

    def place(self, fleet: Fleet, now_s: float) -> Sequence[Grant]:
        """Loads worth starting before anybody waits for them, as requests of the herd's own."""
        grants = []
        for replica in self._residency.plan(self._load, self._room, fleet, now_s):
            self._placed += 1
            request = loading_request(replica, f"load-{self._placed}", now_s)
            ranking = rank(Ask(request, fleet.nodes, self._load, now_s), fleet)
            there = [p for p in ranking.priced if p.place.load is replica and p.starts_now]
            if there:
                grants.append(self._grant(Pending(request, 0.0), ranking._replace(priced=there)))
        return grants

    def explain(self, request: InferenceRequest, now_s: float) -> Explanation:
        """Where the request would go now, and why; nothing changes by asking."""
        queue = self._room.models.get(request.model_key)
        waiting = queue.count if queue is not None else 0
        return explanation(request, self._fleet, self._load, waiting, now_s)

    def queue(self, now_s: float) -> QueueView:
        """Who runs and who waits, by replica, with positions and expected waits."""
        return view(self._load, self._room, self._fleet, self._running_of, now_s)

    def _refresh(self, fleet: Fleet, now_s: float) -> None:
        self._ticked_s = now_s
        self._load.refresh(fleet, now_s)

    def _no_place(
        self, request: InferenceRequest, rejected: tuple[Rejected, ...]
    ) -> Refusal | None:
        """The refusal of a request nobody can take, None when it is worth waiting."""
        if not rejected:
            return refusal(RefusalKind.UNKNOWN_MODEL, request, self._fleet)
        if is_waiting_for_report(rejected):
            return None
        return refusal(RefusalKind.NO_NODE, request, self._fleet, rejected)

    def _enqueue(
        self, request: InferenceRequest, priced: Sequence[Priced], now_s: float
    ) -> Sequence[Effect]:
        is_full, waiting = self._limit_reached(request)
        pending = Pending(request, service_s(priced))
        self._room.add(pending)
        effects = self._pass((request.model_key,), self._fleet, now_s)
        if not is_full or request.request_id not in self._room.pending:
            return effects
        self._room.remove(request.request_id)
        refused = refusal(
            RefusalKind.QUEUE_FULL,
            request,
            self._fleet,
            waiting=waiting,
            retry_after_s=self._drain_s(request.model_key),
        )
        return (*effects, Refuse(request.request_id, refused))

    def _limit_reached(self, request: InferenceRequest) -> tuple[bool, int]:
        """Whether one more may not wait, and how many do already."""
        settings = self._settings
        waiting = len(self._room)
        if waiting >= settings.limit:
            return True, waiting
        limit = settings.limit_per_model
        if limit is None:
            return False, waiting
        queue = self._room.models.get(request.model_key)
        waiting = queue.count if queue is not None else 0
        return waiting >= limit, waiting

    def _drain_s(self, model_key: str) -> float:
        """About when the model's backlog is gone: service times over slots."""
        board = self._load.board(model_key, self._fleet)
        slots = sum(place.load.slots for place in board.places) if board else 0
        queue = self._room.models.get(model_key)
        work_s = sum(pending.estimate_s for pending in queue) if queue else 0.0
        return work_s / max(slots, 1)

    def _grant(self, pending: Pending, ranking: Ranking) -> Grant:
        request = pending.request
        self._start(ranking.ask, ranking.priced[0])
        self._granted[request.request_id] = pending
        self._running_of[request.client] = self._running_of.get(request.client, 0) + 1
        return Grant(request.request_id, explain(ranking))

    def _start(self, ask: Ask, best: Priced) -> None:
        """Take the slot and write down what is expected of it."""
        request, now_s = ask.request, ask.now_s
        replica = best.place.load
        node = replica.node
        pace = node.pace
        run = Running(request, replica, now_s)
        ready_s = best.wait + best.load + best.context
        run.is_probe = len(replica.running) >= replica.slots
        run.first_due_s = now_s + ready_s + best.prefill
        run.prompt = ask.prompt
        run.output = ask.output
        run.cached = best.cached
        run.prefill_s = best.prefill / pace.bias_prefill
        if ask.output:
            run.step_s = best.decode / ask.output / pace.bias_decode
        if best.context or not (replica.is_hot or replica.running):
            replica.begin_loading(request.load_options, now_s + ready_s, now_s)
            run.is_cold = True
        run.is_cache_known = run.is_cold or bool(ask.chain)
        if replica.running:
            run.stall_s = replica.rates.step_s * (1 + pace.alpha * (len(replica.running) - 1))
        if ask.chain or (replica.mirror.slots and request.kind is not Kind.EMBED):
            replica.mirror.take(ask.chain, replica.slots, request.request_id, now_s)
        node.add_busy(best.prefill + best.decode, replica.slots)
        self._load.start(run, now_s)

    def _end(self, request_id: str, outcome: OutcomeKind, now_s: float) -> Running:
        load = self._load
        run = load.running[request_id]
        answered = outcome is OutcomeKind.COMPLETED
        self._twins.discard(request_id)
        load.end(run, now_s, answered=answered)
        replica = run.replica
        if replica.mirror.slots:
            kept = answered or (outcome is OutcomeKind.CANCELLED and run.first_byte_s >= 0)
            replica.mirror.release(request_id, replica.slots, now_s, kept=kept)
        client = run.request.client
        left = self._running_of[client] - 1
        if left:
            self._running_of[client] = left
        else:
            del self._running_of[client]
        if outcome is OutcomeKind.CLIENT_ERROR and run.is_cold and not replica.running:
            load.doubt(replica)
        if outcome is OutcomeKind.UNREACHABLE:
            load.unreachable(replica, now_s)
        elif outcome in FAULTS:
            load.blame(replica, now_s)
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
        for pending in overdue:
            request = pending.request
            self._room.remove(request.request_id)
            waited_s = now_s - request.arrived_s
            refused = refusal(
                RefusalKind.QUEUE_TIMEOUT,
                request,
                fleet,
                waited_s=waited_s,
                retry_after_s=self._drain_s(request.model_key),
            )
            yield Refuse(request.request_id, refused)

    def _pass(self, models: Collection[str], fleet: Fleet, now_s: float) -> list[Effect]:
        """Go through the waiting requests of `models`, again while that grants any: each grant
        changes what another place costs those passed over before it.
        """
        effects: list[Effect] = []
        for _ in range(MAX_ROUNDS):
            granted = self._round(models, fleet, now_s)
            effects += granted
            if not granted or not self._room.pending:
                break
        return effects

    def _round(self, models: Collection[str], fleet: Fleet, now_s: float) -> list[Effect]:
        """Grant the requests whose cheapest place is free, reserve there for the others, so that
        those behind them see the place taken.
        """
        effects: list[Effect] = []
        looks = {key: LOOKAHEAD for key in models if self._has_room(key, fleet, now_s)}
        left = HELD_LOOKS
        held: dict[ReplicaLoad, list[float]] = {}
        alike: dict[tuple[str, LaneKey], list[Pending]] = {}
        for pending in self._room.in_order(list(looks), self._running_of, now_s):
            model_key = pending.request.model_key
            if model_key not in looks:
                continue
            effect = self._look(pending, fleet, held, alike, now_s)
            if effect is not None:
                effects.append(effect)
                is_done = not self._has_room(model_key, fleet, now_s)
            else:
                left -= 1
                looks[model_key] -= 1
                is_done = not looks[model_key]
            if is_done:
                del looks[model_key]
            if not left or not looks:
                break
        return effects

    def _has_room(self, model_key: str, fleet: Fleet, now_s: float) -> bool:
        """Whether looking is worth while: a free slot somewhere, or nowhere to go at all."""
        board = self._load.board(model_key, fleet)
        if board is None or not board.places:
            return True
        if any(len(p.load.running) < p.load.slots for p in board.places):
            return True
        return self._settings.probe_slots and any(
            p.replica.slots is None and now_s >= p.load.probe_s for p in board.places
        )

    def _look(
        self,
        pending: Pending,
        fleet: Fleet,
        held: dict[ReplicaLoad, list[float]],
        alike: dict[tuple[str, LaneKey], list[Pending]],
        now_s: float,
    ) -> Effect | None:
        """Grant, refuse, or reserve (None) for one waiting request.

        A request that may start where an older one just like it would rather wait elsewhere
        changes places with it: among equals the first to come is the first to start.
        """
        request = pending.request
        ask = Ask(request, fleet.nodes, self._load, now_s)
        ranking = rank(ask, fleet, pending.excluded, held)
        if not ranking.priced:
            return self._stranded(pending, fleet, ranking.rejected, now_s)
        pending.stranded_s = None
        best = ranking.priced[0]
        held_alike = alike.setdefault((request.model_key, pending.lane()), [])
        if best.starts_now:
            first = next((p for p in held_alike if p.request.prefix == request.prefix), None)
            if first is not None:
                held_alike.remove(first)
                held_alike.append(pending)
                ask = Ask(first.request, fleet.nodes, self._load, now_s)
                pending, ranking = first, ranking._replace(ask=ask)
            self._room.remove(pending.request.request_id)
            return self._grant(pending, ranking)
        replica = best.place.load
        pending.likely = replica.key
        pending.estimate_s = service_s(ranking.priced)
        if self._is_probe(best, request, now_s):
            self._room.remove(request.request_id)
            return self._grant(pending, ranking)
        if best.is_blocked and now_s - request.arrived_s > STARVED_S:
            replica.node.reserve(replica, now_s)
        ready_s = best.wait + best.load + best.context
        held_alike.append(pending)
        held.setdefault(replica, []).append(now_s + ready_s + best.prefill + best.decode)
        return None

    def _is_probe(self, best: Priced, request: InferenceRequest, now_s: float) -> bool:
        """Whether to send this request beyond the slots known, which might be too few."""
        replica = best.place.load
        return (
            self._settings.probe_slots
            and request.stream
            and not best.context
            and replica.may_probe(now_s)
            and min(remaining_times(replica, now_s)) > 1.5 * best.prefill + 0.05
        )

    def _stranded(
        self, pending: Pending, fleet: Fleet, rejected: tuple[Rejected, ...], now_s: float
    ) -> Refuse | None:
        """No node can take a waiting request any more: give the fleet a moment to come back."""
        if is_waiting_for_report(rejected):
            return None
        if pending.stranded_s is None:
            pending.stranded_s = now_s
        if not pending.excluded and now_s - pending.stranded_s < self._settings.no_node_grace_s:
            return None
        request = pending.request
        self._room.remove(request.request_id)
        return Refuse(request.request_id, refusal(RefusalKind.NO_NODE, request, fleet, rejected))


def _is_sound(priced: Priced, silent: Running, now_s: float) -> bool:
    """Whether a second try there makes sense: another machine, and not one that keeps failing."""
    place = priced.place
    return place.node is not silent.node and place.load.barred_until_s <= now_s
