"""Which replica a request goes to: filter, predict, rank. The decision is its own explanation.

Pure: the answer depends on the arguments alone. What `load` keeps of an earlier call (the places
of a model, eviction plans) is thrown away as soon as what it was made from has changed.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from ollama_herd.core.abilities import is_able
from ollama_herd.core.decision import (
    Candidate,
    Cost,
    Eliminated,
    Rejected,
    RouteDecision,
)
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.load import Load
from ollama_herd.core.names import canonical_name
from ollama_herd.core.place import Place, Priced
from ollama_herd.core.predict import Predictor, SlotKey
from ollama_herd.core.request import InferenceRequest
from ollama_herd.core.runner import adopted_context, needs_reload
from ollama_herd.core.signals import RELOAD_PAUSE_S, Ask, Held, price

__all__ = [
    "Candidate",
    "Cost",
    "Eliminated",
    "Rejected",
    "RouteDecision",
    "decide",
    "explain",
    "is_waiting_for_report",
    "rank",
    "service_s",
]

_total = attrgetter("total")

NOBODY: frozenset[SlotKey] = frozenset()

PRICED_IN_FULL = 64
"""Places priced in full for one decision: keeps it under 0.2 ms however large the fleet is."""

TAKEN = 2.0
"""Rough factor on the service time where every slot is taken: one more service to wait for."""


class Ranking(NamedTuple):
    """Places by rising cost, those that cannot take the request, and how many went unpriced."""

    ask: Ask
    priced: list[Priced]
    rejected: tuple[Rejected, ...]
    more: int = 0


def decide(  # noqa: PLR0917 - the six things a decision depends on
    request: InferenceRequest,
    fleet: Fleet,
    load: Load,
    predictor: Predictor,
    now_s: float,
    excluded: frozenset[SlotKey] = NOBODY,
) -> RouteDecision:
    """Where `request` should go now, or why nowhere.

    `excluded` are slot keys of replicas that were tried already. `load` must have been made with
    `predictor`. Candidates come by rising cost, equal ones by node and engine id; the first is the
    winner whether or not it can start now.

    Each candidate's figures are its full, exact terms. Of more than 64 places those 64 are priced
    that a rough estimate (service, load if cold, sharing, a taken slot) puts first; the estimate
    is exact where nothing runs. The rest is only counted, in `more`.
    """
    if predictor is not load.predictor:
        raise ValueError("load was made with another predictor")
    ask = Ask(request, fleet.nodes, load, now_s)
    return explain(rank(ask, fleet, excluded))


def rank(
    ask: Ask, fleet: Fleet, excluded: frozenset[SlotKey] = NOBODY, held: Held | None = None
) -> Ranking:
    """All places that could take the request by rising cost, and those that could not."""
    board = ask.load.board(ask.request.model_key, fleet)
    if board is None:
        return Ranking(ask, [], ())
    places, rejected = board.places, board.rejected
    if excluded:
        places, rejected = _without(places, rejected, excluded)
    if ask.request.work:
        places, rejected = _able(places, rejected, ask)
    if ask.load.barred:
        places, rejected = _working(places, rejected, ask)
    more = len(places) - PRICED_IN_FULL
    if more > 0:
        places = _likeliest(places, ask)
    else:
        more = 0
    if held:
        priced = [price(place, ask, held.get(place.load, ())) for place in places]
    else:
        priced = [price(place, ask) for place in places]
    if len(priced) > 1:
        priced.sort(key=_total)  # stable: equal costs stay in order of node and engine
    return Ranking(ask, priced, rejected, more)


def _likeliest(places: Sequence[Place], ask: Ask) -> list[Place]:
    """The places a rough estimate puts first, in their old order."""
    attention, output, chain = ask.attention, ask.output, ask.chain
    rough = []
    for place in places:
        load, node = place.load, place.node
        rates, pace = load.rates, node.pace
        work = attention
        if chain and load.mirror.slots:
            common = load.mirror.find(chain, load.slots)[1]
            work *= 1 - min(common / len(chain), 1.0)
        service = (
            work * rates.inv_prefill_s * pace.slow_prefill
            + output * rates.step_s * pace.slow_decode
        ) * (1 + node.busy_share)
        if node.in_flight:
            service *= 1 + node.in_flight
            if len(load.running) >= load.slots:
                service *= TAKEN
        if not load.is_hot:
            service += rates.load_s
        elif (
            (ask.options or load.options or place.options)
            and needs_reload(place, ask)
            and not adopted_context(place, ask)
        ):
            service += rates.load_s + RELOAD_PAUSE_S
        rough.append(service)
    kept = sorted(range(len(rough)), key=rough.__getitem__)[:PRICED_IN_FULL]
    kept.sort()
    return [places[i] for i in kept]


def _without(
    places: Sequence[Place], rejected: tuple[Rejected, ...], excluded: frozenset[SlotKey]
) -> tuple[list[Place], tuple[Rejected, ...]]:
    left, tried = [], []
    for place in places:
        if not _was_tried(place, excluded):
            left.append(place)
            continue
        node_id, engine_id = place.replica.node_id, place.replica.engine_id
        tried.append(Rejected(node_id, engine_id, Eliminated.ALREADY_TRIED))
    return left, (*rejected, *tried)


def _was_tried(place: Place, excluded: frozenset[SlotKey]) -> bool:
    """Also where its weights have become known since, which is another key."""
    node_id, engine_id, _ = key = place.load.key
    by_name = (node_id, engine_id, canonical_name(place.replica.model.name))
    return key in excluded or by_name in excluded


def _able(
    places: Sequence[Place], rejected: tuple[Rejected, ...], ask: Ask
) -> tuple[list[Place], tuple[Rejected, ...]]:
    """Leave out replicas whose model does something else than what was asked for."""
    kind = ask.request.kind
    left = [place for place in places if is_able(place.replica, kind)]
    unable = tuple(
        Rejected(place.replica.node_id, place.replica.engine_id, Eliminated.MISSING_CAPABILITY)
        for place in places
        if not is_able(place.replica, kind)
    )
    return left, rejected + unable


def _working(
    places: Sequence[Place], rejected: tuple[Rejected, ...], ask: Ask
) -> tuple[list[Place], tuple[Rejected, ...]]:
    """Leave out engines that refused a connection since their node's last report, and replicas
    that keep failing; of the latter the whole lot stays when nobody else is left.
    """
    left: list[Place] = []
    failing: list[Place] = []
    for place in places:
        load = place.load
        out_s = load.engine.out_since_s
        if out_s is not None and ask.nodes[place.replica.node_id].last_report_s <= out_s:
            gone = Rejected(place.replica.node_id, place.replica.engine_id, Eliminated.UNREACHABLE)
            rejected = (*rejected, gone)
        elif load.is_resting(ask.now_s):
            failing.append(place)
        else:
            left.append(place)
    if not left:
        return failing, rejected
    resting = tuple(
        Rejected(place.replica.node_id, place.replica.engine_id, Eliminated.FAILING)
        for place in failing
    )
    return left, rejected + resting


def explain(ranking: Ranking) -> RouteDecision:
    """Freeze a ranking."""
    priced = ranking.priced
    model_key = ranking.ask.request.model_key
    if not priced:
        return RouteDecision(model_key, (), ranking.rejected, ranking.more)
    best = priced[0]
    first_s = best.wait + best.load + best.context + best.prefill
    return RouteDecision(
        model_key,
        tuple(
            [
                Candidate(
                    p.place.replica,
                    Cost(
                        1e3 * p.total,
                        1e3 * p.load,
                        1e3 * p.evict,
                        1e3 * p.wait,
                        1e3 * p.history,
                        1e3 * p.affinity,
                        1e3 * p.trend,
                        1e3 * p.context,
                        1e3 * p.prefix,
                    ),
                    p.starts_now,
                    p.num_ctx,
                )
                for p in priced
            ]
        ),
        ranking.rejected,
        ranking.more,
        1e3 * first_s,
        1e3 * (first_s + best.decode),
    )


def is_waiting_for_report(rejected: tuple[Rejected, ...]) -> bool:
    """Whether an engine that refused a connection may be back with the node's next report."""
    return any(r.reason is Eliminated.UNREACHABLE for r in rejected)


def service_s(priced: Sequence[Priced]) -> float:
    """The shortest service time anywhere, once it gets its turn."""
    if not priced:
        return 1.0
    return min(p.prefill + p.decode for p in priced)
