"""The policies that are compared: the product's own scheduler, and the standard ones.

The standard ones send each request on at once, as load balancers do, and wait in the engines'
queues. They count what they sent themselves; what is loaded they know from reports.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import Replica
from ollama_herd.core.predict import Predictor
from ollama_herd.core.prefix import common_blocks
from ollama_herd.core.request import InferenceRequest, OutcomeKind, Usage
from ollama_herd.core.scheduler import Grant, QueueSettings, Refuse, Scheduler
from ollama_herd.simulate.pointsum import PointSum
from ollama_herd.simulate.policy import Action, AtOnce, Drop, Policy, Preload, Send, Unload
from ollama_herd.simulate.reference.policy import Reference


class Herd:
    """The product's scheduler and predictor, unchanged."""

    places = True

    def __init__(self, _rng: Random) -> None:
        self.predictor = Predictor()
        self.scheduler = Scheduler(QueueSettings(limit=10**6, timeout_s=1e9), self.predictor)

    def arrived(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Action]:
        return _actions(self.scheduler.on_request(request, fleet, now_s))

    def first_byte(self, request_id: str, now_s: float) -> None:
        self.scheduler.on_first_byte(request_id, now_s)

    def finished(
        self,
        request_id: str,
        outcome: OutcomeKind,
        usage: Usage | None,
        fleet: Fleet,
        now_s: float,
    ) -> Sequence[Action]:
        return _actions(self.scheduler.on_finished(request_id, outcome, usage, fleet, now_s))

    def failed(
        self, request_id: str, outcome: OutcomeKind, fleet: Fleet, now_s: float
    ) -> Sequence[Action]:
        return _actions(self.scheduler.on_retry(request_id, outcome, fleet, now_s))

    def passed(self, fleet: Fleet, now_s: float) -> Sequence[Action]:
        actions = _actions(self.scheduler.on_fleet(fleet, now_s))
        for grant in self.scheduler.place(fleet, now_s) if self.places else ():
            request = self.scheduler.load.running[grant.request_id].request
            winner = grant.decision.winner
            if winner is not None:
                actions += map(Unload, grant.decision.evicts)
                actions.append(Preload(request, winner.replica))
        return actions


class HerdWithoutPlacement(Herd):
    """The same without loads ahead of requests."""

    places = False


def _actions(effects: Sequence[object]) -> list[Action]:
    made: list[Action] = []
    for effect in effects:
        if isinstance(effect, Grant):
            winner = effect.decision.winner
            if winner is None:
                raise AssertionError("a grant always has a winner")
            made += map(Unload, effect.decision.evicts)
            made.append(Send(effect.request_id, winner.replica))
        elif isinstance(effect, Refuse):
            made.append(Drop(effect.request_id))
    return made


class RandomChoice(AtOnce):
    """Any machine that has the model."""

    def pick(self, request: InferenceRequest, replicas: Sequence[Replica], now_s: float) -> Replica:  # noqa: ARG002 - the base's
        return self.rng.choice(replicas)


class RoundRobin(AtOnce):
    """One after the other, by model."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._turns: dict[str, int] = {}

    def pick(self, request: InferenceRequest, replicas: Sequence[Replica], now_s: float) -> Replica:  # noqa: ARG002 - the base's
        turn = self._turns.get(request.model_key, 0)
        self._turns[request.model_key] = turn + 1
        return replicas[turn % len(replicas)]


class LeastRequests(AtOnce):
    """The machine with the fewest requests under way; ties by lot."""

    def pick(self, request: InferenceRequest, replicas: Sequence[Replica], now_s: float) -> Replica:  # noqa: ARG002 - the base's
        least = min(self.in_flight.get(r.node_id, 0) for r in replicas)
        return self.rng.choice([r for r in replicas if self.in_flight.get(r.node_id, 0) == least])


class PowerOfTwo(AtOnce):
    """The less busy one of two drawn by lot."""

    def pick(self, request: InferenceRequest, replicas: Sequence[Replica], now_s: float) -> Replica:  # noqa: ARG002 - the base's
        drawn = self.rng.sample(replicas, min(2, len(replicas)))
        return min(drawn, key=lambda r: self.in_flight.get(r.node_id, 0))


MATCH_SHARE = 0.5
IMBALANCE = 32
CHAINS_KEPT = 512


class PrefixAware(AtOnce):
    """The machine that saw the longest part of the prompt, if that is over half of it and loads are
    balanced; else the one that has seen least, among those with the model loaded (the cache-aware
    rule of inference gateways).
    """

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._seen: dict[tuple[str, str], list[tuple[int, ...]]] = {}

    def pick(self, request: InferenceRequest, replicas: Sequence[Replica], now_s: float) -> Replica:  # noqa: ARG002 - the base's
        hot = [r for r in replicas if r.loaded is not None] or list(replicas)
        counts = [self.in_flight.get(r.node_id, 0) for r in hot]
        if max(counts) - min(counts) > IMBALANCE:
            return hot[counts.index(min(counts))]
        matches = [self._match(request, r) for r in hot]
        if request.prefix and max(matches) > MATCH_SHARE * len(request.prefix):
            return hot[matches.index(max(matches))]
        sizes = [len(self._seen.get((r.node_id, request.model_key), ())) for r in hot]
        return hot[sizes.index(min(sizes))]

    def sent(self, request: InferenceRequest, replica: Replica, now_s: float) -> None:  # noqa: ARG002 - the base's
        seen = self._seen.setdefault((replica.node_id, request.model_key), [])
        seen.append(request.prefix)
        del seen[:-CHAINS_KEPT]

    def _match(self, request: InferenceRequest, replica: Replica) -> int:
        seen = self._seen.get((replica.node_id, request.model_key), ())
        return max((common_blocks(request.prefix, chain) for chain in seen), default=0)


POLICIES: Mapping[str, Callable[[Random], Policy]] = MappingProxyType(
    {
        "herd": Herd,
        "random": RandomChoice,
        "round-robin": RoundRobin,
        "least-requests": LeastRequests,
        "power-of-two": PowerOfTwo,
        "prefix-aware": PrefixAware,
        "point-sum": PointSum,
        "reference": Reference,
        "no-placement": HerdWithoutPlacement,
    }
)
"""By name, as the command line calls them; `herd` is the product."""

STANDARD = tuple(name for name in POLICIES if name != "no-placement")
"""Those that a comparison takes unless told otherwise."""
