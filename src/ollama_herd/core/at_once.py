"""Standard policies for comparison with the router's own: each request is sent on as it arrives.

They know what any load balancer knows, and nothing waits in the router: the engines queue. What is
not usable is left out and failed attempts go elsewhere, as with the router's own policy.
"""

import enum
from collections.abc import Sequence

from ollama_herd.core.effects import Effect, Grant, Refuse
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.place import Priced
from ollama_herd.core.predict import Predictor
from ollama_herd.core.queue import QueueSettings, no_place, refusal
from ollama_herd.core.request import InferenceRequest, OutcomeKind, RefusalKind
from ollama_herd.core.routing import rank
from ollama_herd.core.scheduler import Scheduler
from ollama_herd.core.signals import Ask
from ollama_herd.core.waiting import Pending


class Policy(enum.StrEnum):
    """How places are chosen. All but the first are there to compare with it."""

    EXPECTED_COMPLETION = "expected-completion"
    LEAST_REQUESTS = "least-requests"
    ROUND_ROBIN = "round-robin"


class AtOnce(Scheduler):
    """Binds each request on arrival: to the node with the fewest requests, or in turn by model."""

    def __init__(self, settings: QueueSettings, predictor: Predictor, policy: Policy) -> None:
        super().__init__(settings, predictor)
        self._policy = policy
        self._turns_of: dict[str, int] = {}

    def on_request(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Effect]:
        """Granted at once, or refused where nobody can take it."""
        self._look_at_time(fleet, now_s)
        self._fleet = fleet
        return (self._send(Pending(request, 0.0), fleet, now_s),)

    def on_retry(
        self, request_id: str, outcome: OutcomeKind, fleet: Fleet, now_s: float
    ) -> Sequence[Effect]:
        """On to another one, by the same rule."""
        pending = self._granted.pop(request_id, None)
        if pending is None:
            return ()
        run = self._end(request_id, outcome, now_s)
        pending.excluded |= {run.replica.key}
        self._fleet = fleet
        return (self._send(pending, fleet, now_s),)

    def place(self, fleet: Fleet, now_s: float) -> Sequence[Grant]:
        """Nothing is loaded ahead."""
        del fleet, now_s
        return ()

    def _send(self, pending: Pending, fleet: Fleet, now_s: float) -> Effect:
        request = pending.request
        ranking = rank(Ask(request, fleet.nodes, self._load, now_s), fleet, pending.excluded)
        rejected = ranking.rejected
        if not ranking.priced:
            refused = no_place(request, fleet, rejected)
            refused = refused or refusal(RefusalKind.NO_NODE, request, fleet, rejected)
            return Refuse(request.request_id, refused, rejected)
        chosen = self._pick(request.model_key, ranking.priced)
        chosen.place.load.victims = ()  # what goes to make room is the engine's choice
        others = [priced for priced in ranking.priced if priced is not chosen]
        return self._grant(pending, ranking._replace(priced=[chosen, *others]))

    def _pick(self, model_key: str, priced: Sequence[Priced]) -> Priced:
        in_order = sorted(priced, key=lambda p: p.place.load.key)
        if self._policy is Policy.LEAST_REQUESTS:
            return min(in_order, key=lambda p: p.place.node.in_flight)
        turn = self._turns_of.get(model_key, 0)
        self._turns_of[model_key] = turn + 1
        return in_order[turn % len(in_order)]


def scheduler(settings: QueueSettings, predictor: Predictor, policy: Policy) -> Scheduler:
    """The scheduler of a policy."""
    if policy is Policy.EXPECTED_COMPLETION:
        return Scheduler(settings, predictor)
    return AtOnce(settings, predictor, policy)
