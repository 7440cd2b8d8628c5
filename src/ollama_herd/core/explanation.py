"""What would happen to a request now, and why: a decision without its consequences, for people."""

import msgspec

from ollama_herd.core.decision import Cost, Eliminated
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.load import Load
from ollama_herd.core.place import Priced
from ollama_herd.core.request import InferenceRequest
from ollama_herd.core.routing import explain, rank
from ollama_herd.core.signals import Ask


class Choice(msgspec.Struct, frozen=True):
    """A place that could take the request: predicted times in ms, and the cost that ranks it."""

    node_id: str
    node: str
    engine_id: str
    is_loaded: bool
    starts_now: bool
    slots: int
    in_flight: int
    ready_ms: float  # until its prompt is evaluated: waiting, loading
    first_token_ms: float
    total_ms: float
    cost: Cost


class Excluded(msgspec.Struct, frozen=True):
    """A place that could not take it, and why."""

    node_id: str
    node: str
    engine_id: str
    reason: Eliminated
    detail: str


class Explanation(msgspec.Struct, frozen=True):
    """`choices` by rising cost; `waiting` requests of the model are served before this one."""

    model: str
    prompt_tokens: int
    expected_output_tokens: float
    verdict: str
    waiting: int
    choices: tuple[Choice, ...]
    excluded: tuple[Excluded, ...]
    more: int = 0


def explanation(
    request: InferenceRequest, fleet: Fleet, load: Load, waiting: int, now_s: float
) -> Explanation:
    """What the scheduler would do with `request` now. Changes nothing."""
    ask = Ask(request, fleet.nodes, load, now_s)
    ranking = rank(ask, fleet)
    decision = explain(ranking)
    choices = tuple(
        _choice(priced, candidate.cost, fleet)
        for priced, candidate in zip(ranking.priced, decision.candidates, strict=True)
    )
    return Explanation(
        model=request.model_key,
        prompt_tokens=request.prompt_tokens,
        expected_output_tokens=ask.output,
        verdict=_verdict(request, choices, waiting, is_known=bool(decision.eliminated)),
        waiting=waiting,
        choices=choices,
        excluded=tuple(
            Excluded(r.node_id, _name(fleet, r.node_id), r.engine_id, r.reason, r.detail)
            for r in decision.eliminated
        ),
        more=decision.more,
    )


def _choice(priced: Priced, cost: Cost, fleet: Fleet) -> Choice:
    place = priced.place
    node_id = place.replica.node_id
    ready_s = priced.wait + priced.load + priced.context
    return Choice(
        node_id=node_id,
        node=_name(fleet, node_id),
        engine_id=place.replica.engine_id,
        is_loaded=place.load.is_hot,
        starts_now=priced.starts_now,
        slots=place.load.slots,
        in_flight=len(place.load.running),
        ready_ms=1e3 * ready_s,
        first_token_ms=1e3 * (ready_s + priced.prefill),
        total_ms=1e3 * (ready_s + priced.prefill + priced.decode),
        cost=cost,
    )


def _verdict(
    request: InferenceRequest, choices: tuple[Choice, ...], waiting: int, *, is_known: bool
) -> str:
    if not choices:
        if is_known:
            return f"no node can run {request.model_key} now"
        return f"no node of the fleet has {request.model_key}"
    best = choices[0]
    if waiting:
        return f"it waits behind {waiting} of {request.model_key}; {best.node} is its best place"
    if not best.starts_now:
        return f"it waits for {best.node}, {best.ready_ms / 1e3:.1f} s as things stand"
    how = "is loaded" if best.is_loaded else "loads it"
    return f"it goes to {best.node} at once, which {how}"


def _name(fleet: Fleet, node_id: str) -> str:
    node = fleet.nodes.get(node_id)
    return node.name if node is not None else node_id
