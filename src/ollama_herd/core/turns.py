"""Whose turn it is: goes through the waiting requests and gives them what is free.

Late binding: each goes to its cheapest place if that can start it now; otherwise that place counts
as taken for those behind it, and the request goes on waiting, bound to nothing.

Requests that need a runner loaded anew with other options come after those that can use it as it
is, until it has been as it is for a while: then it is kept free for who waits. So clients with
different `num_ctx` take turns that are long against a load, and none waits for ever.
"""

from collections.abc import Callable, Collection

import msgspec

from ollama_herd.core.decision import Rejected
from ollama_herd.core.effects import Effect, Grant, Refuse
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.inflight import Options, ReplicaLoad
from ollama_herd.core.load import Load
from ollama_herd.core.place import Priced
from ollama_herd.core.queue import QueueSettings, refusal
from ollama_herd.core.remaining import remaining_times
from ollama_herd.core.request import InferenceRequest, RefusalKind
from ollama_herd.core.routing import Ranking, is_waiting_for_report, rank, service_s
from ollama_herd.core.shares import Shares
from ollama_herd.core.signals import RELOAD_PAUSE_S, Ask
from ollama_herd.core.waiting import LaneKey, Pending, WaitingRoom

LOOKAHEAD = 8
"""Held requests of one model looked at in a pass (routing study)."""

HELD_LOOKS = 32
"""Held requests looked at in one pass over several models; the next tick looks further."""

MAX_ROUNDS = 8

STARVED_S = 120.0
"""A request that waited so long for busy models to make room has its node kept free for it. A node
that runs dry serves nobody: on a busy fleet 30 s cost all others half of their time to first token
(simulated), where such a request mostly finds room by itself a little later.
"""

TURN_LOADS = 4.0
TURN_MIN_S = 10.0
TURN_MAX_S = 60.0
"""A runner stays as it is for so many times its load, within these bounds, while there are
requests for it as it is: a fifth of the time at most goes into loading."""

MOMENT_S = 1.0
"""So long a runner that was just used is not loaded anew, within its turn: less than a reload."""

_Kind = tuple[str, tuple[tuple[str, int | bool], ...]]


class _Round(msgspec.Struct):
    """What one round has found out so far."""

    fleet: Fleet
    now_s: float
    looks: dict[str, int]
    effects: list[Effect] = msgspec.field(default_factory=list)
    left: int = HELD_LOOKS
    held: dict[ReplicaLoad, list[float]] = msgspec.field(default_factory=dict)
    alike: dict[tuple[str, LaneKey], list[Pending]] = msgspec.field(default_factory=dict)
    # The first request of each model and load options whose turn comes after the others.
    reloading: dict[_Kind, Pending] = msgspec.field(default_factory=dict)


class Turns:
    """Goes through the room at each event; owned by the scheduler."""

    def __init__(
        self,
        settings: QueueSettings,
        load: Load,
        room: WaitingRoom,
        shares: Shares,
        grant: Callable[[Pending, Ranking], Grant],
    ) -> None:
        self._settings = settings
        self._load = load
        self._room = room
        self._shares = shares
        self._grant = grant
        self._reserved: dict[str, tuple[ReplicaLoad, Options]] = {}  # by request

    def queue_by(self, settings: QueueSettings) -> None:
        """Other settings from now on."""
        self._settings = settings

    def take(self, models: Collection[str], fleet: Fleet, now_s: float) -> list[Effect]:
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

    def renew(self, now_s: float) -> None:
        """A tick: nodes stay reserved for as long as those wait for whom they are."""
        for request_id, (replica, options) in list(self._reserved.items()):
            is_kept = request_id in self._room.pending
            if not (is_kept and replica.node.keep_reserved(replica, options, now_s)):
                del self._reserved[request_id]

    def _round(self, models: Collection[str], fleet: Fleet, now_s: float) -> list[Effect]:
        """Grant the requests whose cheapest place is free, reserve there for the others, so that
        those behind them see the place taken.
        """
        state = _Round(
            fleet, now_s, {key: LOOKAHEAD for key in models if self._has_room(key, fleet, now_s)}
        )
        looks, effects = state.looks, state.effects
        for pending in self._room.in_order(list(looks), self._shares, now_s):
            request = pending.request
            model_key = request.model_key
            if model_key not in looks or (model_key, request.load_options) in state.reloading:
                continue
            effect = self._look(pending, state)
            if effect is not None:
                effects.append(effect)
                is_done = not self._has_room(model_key, fleet, now_s)
            else:
                state.left -= 1
                looks[model_key] -= 1
                is_done = not looks[model_key]
            if is_done:
                del looks[model_key]
            if not state.left or not looks:
                break
        for pending in state.reloading.values():
            effect = self._look(pending, state, is_last=True)
            if effect is not None:
                effects.append(effect)
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

    def _look(self, pending: Pending, state: _Round, *, is_last: bool = False) -> Effect | None:
        """Grant, refuse, or reserve (None) for one waiting request.

        A request that may start where an older one just like it would rather wait elsewhere
        changes places with it: among equals the first to come is the first to start.
        """
        request, now_s = pending.request, state.now_s
        ask = Ask(request, state.fleet.nodes, self._load, now_s)
        ranking = rank(ask, state.fleet, pending.excluded, state.held)
        if not ranking.priced:
            return self._stranded(pending, state.fleet, ranking.rejected, now_s)
        pending.stranded_s = None
        best = ranking.priced[0]
        if best.context and self._gives_way(pending, best, state, is_last=is_last):
            pending.likely = best.place.load.key
            pending.estimate_s = service_s(ranking.priced)
            return None
        held_alike = state.alike.setdefault((request.model_key, pending.lane()), [])
        if best.starts_now:
            first = next((p for p in held_alike if p.request.prefix == request.prefix), None)
            if first is not None:
                held_alike.remove(first)
                held_alike.append(pending)
                ask = Ask(first.request, state.fleet.nodes, self._load, now_s)
                pending, ranking = first, ranking._replace(ask=ask)
            self._room.remove(pending.request.request_id)
            return self._grant(pending, ranking)
        replica = best.place.load
        pending.likely = replica.key
        pending.estimate_s = service_s(ranking.priced)
        if self._is_probe(best, request, now_s):
            self._room.remove(request.request_id)
            return self._grant(pending, ranking)
        options = request.load_options
        is_owed = best.context or (best.is_blocked and now_s - request.arrived_s > STARVED_S)
        if is_owed and replica.node.reserve(replica, options, now_s):
            self._reserved[request.request_id] = (replica, options)
        ready_s = best.wait + best.load + best.context
        held_alike.append(pending)
        state.held.setdefault(replica, []).append(now_s + ready_s + best.prefill + best.decode)
        return None

    def _gives_way(self, pending: Pending, best: Priced, state: _Round, *, is_last: bool) -> bool:
        """Whether a request for other load options lets those go first that can use the runner as
        it is. It does while their turn lasts; a moment of it even when none of them is there, for
        the next one of who asked last.
        """
        replica, now_s = best.place.load, state.now_s
        turn_s = min(
            max(TURN_LOADS * (replica.rates.load_s + RELOAD_PAUSE_S), TURN_MIN_S), TURN_MAX_S
        )
        if min(now_s - pending.request.arrived_s, now_s - replica.loaded_s) >= turn_s:
            return False
        if not is_last:
            request = pending.request
            state.reloading[request.model_key, request.load_options] = pending
            return True
        is_awaited = now_s - replica.loaded_s < turn_s and now_s - replica.changed_s < MOMENT_S
        return is_awaited or not best.starts_now

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
        refused = refusal(RefusalKind.NO_NODE, request, fleet, rejected)
        return Refuse(request.request_id, refused, rejected)
