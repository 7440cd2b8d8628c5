"""What a policy of the simulator is: what it hears, what it may do, and the base of those that
send each request on at once, as load balancers do.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, Protocol, runtime_checkable

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import Replica
from ollama_herd.core.request import InferenceRequest, OutcomeKind, Usage


class Send(NamedTuple):
    """The request goes to this replica now. `keep_alive_s` is what it asks for, negative for ever;
    None leaves it to the engine.
    """

    request_id: str
    replica: Replica
    keep_alive_s: float | None = None


class Drop(NamedTuple):
    """The request is refused."""

    request_id: str


class Preload(NamedTuple):
    """A request of the policy's own: the replica's model is to be loaded."""

    request: InferenceRequest
    replica: Replica


class Unload(NamedTuple):
    """A model is unloaded to make room."""

    replica: Replica


Action = Send | Drop | Preload | Unload


class Policy(Protocol):
    """A router in the simulator. Times are simulated seconds."""

    def arrived(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Action]:
        """A request came."""

    def first_byte(self, request_id: str, now_s: float) -> None:
        """Its answer began."""

    def finished(
        self,
        request_id: str,
        outcome: OutcomeKind,
        usage: Usage | None,
        fleet: Fleet,
        now_s: float,
    ) -> Sequence[Action]:
        """Its answer ended, whole or cut."""

    def failed(
        self, request_id: str, outcome: OutcomeKind, fleet: Fleet, now_s: float
    ) -> Sequence[Action]:
        """Its node failed before the answer began: it may go elsewhere."""

    def passed(self, fleet: Fleet, now_s: float) -> Sequence[Action]:
        """A second passed, or the fleet changed."""


@runtime_checkable
class CountsTokens(Protocol):
    """A policy that counts the tokens of answers as they pass through the router."""

    def counts(self, streamed: Callable[[str], int]) -> None:
        """`streamed` tells of a request how many came so far."""


class AtOnce:
    """A policy that binds each request on arrival; `pick` is all that differs."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.in_flight: dict[str, int] = {}
        self.bound: dict[str, tuple[InferenceRequest, Replica]] = {}
        self.held: list[InferenceRequest] = []
        self.out: dict[str, float] = {}

    def pick(self, request: InferenceRequest, replicas: Sequence[Replica], now_s: float) -> Replica:
        raise NotImplementedError

    def arrived(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Action]:
        replicas = [
            r
            for r in sorted(
                fleet.replicas.get(request.model_key, ()), key=lambda found: found.node_id
            )
            if fleet.nodes[r.node_id].last_report_s > self.out.get(r.node_id, -1.0)
        ]
        if not replicas:
            self.held.append(request)
            return ()
        replica = self.pick(request, replicas, now_s)
        self.bound[request.request_id] = (request, replica)
        self.in_flight[replica.node_id] = self.in_flight.get(replica.node_id, 0) + 1
        self.sent(request, replica, now_s)
        return (Send(request.request_id, replica),)

    def sent(self, request: InferenceRequest, replica: Replica, now_s: float) -> None:
        """For what a policy remembers of its choices."""

    def first_byte(self, request_id: str, now_s: float) -> None:
        """Of no interest."""

    def finished(
        self,
        request_id: str,
        outcome: OutcomeKind,  # noqa: ARG002 - the protocol's
        usage: Usage | None,  # noqa: ARG002
        fleet: Fleet,  # noqa: ARG002
        now_s: float,
    ) -> Sequence[Action]:
        request, replica = self.bound.pop(request_id)
        self.in_flight[replica.node_id] -= 1
        self.ended(request, replica, now_s)
        return ()

    def ended(self, request: InferenceRequest, replica: Replica, now_s: float) -> None:
        """For what a policy remembers of the times."""

    def failed(
        self, request_id: str, outcome: OutcomeKind, fleet: Fleet, now_s: float
    ) -> Sequence[Action]:
        request, replica = self.bound[request_id]
        self.out[replica.node_id] = now_s
        self.finished(request_id, outcome, None, fleet, now_s)
        return self.arrived(request, fleet, now_s)

    def passed(self, fleet: Fleet, now_s: float) -> Sequence[Action]:
        held, self.held = self.held, []
        return [action for request in held for action in self.arrived(request, fleet, now_s)]
