"""The reference policy's queue: requests wait in the router until their cheapest host is free."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.request import InferenceRequest, OutcomeKind, Usage
from ollama_herd.simulate.policy import Action, Drop, Preload, Send, Unload
from ollama_herd.simulate.reference import observe
from ollama_herd.simulate.reference.beliefs import Beliefs, Flight, Host, Streamed
from ollama_herd.simulate.reference.cost import Prices, Terms, cheapest, finish_s
from ollama_herd.simulate.reference.lengths import Continuations
from ollama_herd.simulate.reference.placement import Placement
from ollama_herd.simulate.reference.rates import Decaying

TICK_S = 5.0
LOOKS = 8
CLIENT_SHARE = 0.5
LONGEST_WAIT_S = 600.0
"""A request that no node could take for so long is given up."""

KEEP_S = -1.0
"""The router alone decides what is unloaded."""


@dataclass(eq=False)
class Waiting:
    """A request in the queue. `excluded` are machines that failed it."""

    request: InferenceRequest
    service_s: float  # cheapest now
    excluded: frozenset[str] = frozenset()

    def order(self, running: int, now_s: float) -> tuple[float, float]:
        waited_s = now_s - self.request.arrived_s
        ratio = (waited_s + self.service_s + 1) / (self.service_s + 1)
        return -ratio / (1 + CLIENT_SHARE * running), self.request.arrived_s


class Reference:
    """The published expected-completion policy; see the package."""

    def __init__(self, _rng: Random) -> None:
        self.beliefs = Beliefs()
        self.prices = Prices(self.beliefs)
        self.demand: dict[str, Decaying] = {}
        self._placement = Placement(self.beliefs, self.prices, self.demand)
        self._waiting: dict[str, Waiting] = {}
        self._sent: dict[str, tuple[Waiting, Flight]] = {}
        self._preloads: dict[str, Host] = {}
        self._clients: dict[str, int] = {}
        self._ticked_s = 0.0
        self._streamed: Streamed = lambda _: 0

    def counts(self, streamed: Streamed) -> None:
        """`streamed` tells the tokens of a running request so far."""
        self._streamed = streamed

    def arrived(self, request: InferenceRequest, fleet: Fleet, now_s: float) -> Sequence[Action]:
        self.beliefs.sync(fleet)
        key = request.model_key
        self.demand.setdefault(key, Decaying()).add(now_s)
        self.prices.continuations.setdefault(key, Continuations()).arrived(request.prefix, now_s)
        waiting = Waiting(request, 1.0)
        self._waiting[request.request_id] = waiting
        self._estimate(waiting, fleet, now_s)
        return self._scan({key}, fleet, now_s)

    def first_byte(self, request_id: str, now_s: float) -> None:
        _, flight = self._sent[request_id]
        machine = flight.host.machine
        observe.watch(machine, self._streamed, now_s)
        flight.first_s = now_s
        flight.speed = machine.pace.speed
        flight.counted = flight.streamed = 1
        flight.host.became_hot()
        flight.host.touched_s = now_s

    def finished(
        self,
        request_id: str,
        outcome: OutcomeKind,
        usage: Usage | None,
        fleet: Fleet,
        now_s: float,
    ) -> Sequence[Action]:
        self.beliefs.sync(fleet)
        is_whole = outcome is OutcomeKind.COMPLETED
        host = self._preloads.pop(request_id, None)
        if host is not None:
            self._loaded(host, usage, now_s, is_whole=is_whole)
        else:
            _, flight = self._landed(request_id, now_s, is_whole=is_whole)
            if is_whole:
                flight.host.became_hot()
                self._learn(flight, usage)
            else:
                self._out(flight.host, now_s)
        return self._scan(None, fleet, now_s)

    def failed(
        self,
        request_id: str,
        outcome: OutcomeKind,  # noqa: ARG002 - the protocol's
        fleet: Fleet,
        now_s: float,
    ) -> Sequence[Action]:
        self.beliefs.sync(fleet)
        waiting, flight = self._landed(request_id, now_s, is_whole=False)
        self._out(flight.host, now_s)
        waiting.excluded |= {flight.host.machine.name}
        self._waiting[request_id] = waiting
        return self._scan(None, fleet, now_s)

    def passed(self, fleet: Fleet, now_s: float) -> Sequence[Action]:
        is_news = self.beliefs.sync(fleet)
        is_tick = now_s - self._ticked_s >= TICK_S
        actions: list[Action] = []
        if is_tick:
            self._ticked_s = now_s
            self._look_around(fleet, now_s)
            actions += self._given_up(fleet, now_s)
        if is_tick or is_news:
            actions += self._scan(None, fleet, now_s)
        backlog: dict[str, int] = {}
        for waiting in self._waiting.values():
            key = waiting.request.model_key
            backlog[key] = backlog.get(key, 0) + 1
        for terms in self._placement.plan(backlog, fleet, now_s, is_tick=is_tick):
            actions += self._preload(terms, now_s)
        return actions

    def _look_around(self, fleet: Fleet, now_s: float) -> None:
        for machine in self.beliefs.machines.values():
            observe.watch(machine, self._streamed, now_s)
            observe.judge_speed(machine, now_s)
        for waiting in self._waiting.values():
            self._estimate(waiting, fleet, now_s)

    def _given_up(self, fleet: Fleet, now_s: float) -> list[Action]:
        """Requests for which there has been no machine for too long."""
        lost = [
            waiting.request.request_id
            for waiting in self._waiting.values()
            if now_s - waiting.request.arrived_s > LONGEST_WAIT_S
            and not self.beliefs.hosts(waiting.request.model_key, fleet)
        ]
        for request_id in lost:
            del self._waiting[request_id]
        return [Drop(request_id) for request_id in lost]

    def _estimate(self, waiting: Waiting, fleet: Fleet, now_s: float) -> None:
        """The cheapest service time anywhere, prompts in caches counted."""
        need = self.prices.need(waiting.request)
        hosts = self.beliefs.hosts(waiting.request.model_key, fleet)
        waiting.service_s = min(
            (self.prices.terms(host, need, now_s).service_s for host in hosts),
            default=waiting.service_s,
        )

    def _scan(self, models: Collection[str] | None, fleet: Fleet, now_s: float) -> list[Action]:
        """Go through the queue: send what can start where it is cheapest, reserve for the rest."""
        actions: list[Action] = []
        looks: dict[str, int] = {}
        held: dict[Host, list[float]] = {}
        for waiting in sorted(
            (w for w in self._waiting.values() if models is None or w.request.model_key in models),
            key=lambda w: w.order(self._clients.get(w.request.client, 0), now_s),
        ):
            key = waiting.request.model_key
            looks[key] = looks.get(key, 0) + 1
            if looks[key] > LOOKS:
                continue
            hosts = self._open_to(waiting, fleet)
            if not hosts:
                continue
            need = self.prices.need(waiting.request)
            best = cheapest([self.prices.terms(h, need, now_s, held.get(h, ())) for h in hosts])
            if best.starts_now:
                actions += self._send(waiting, best, now_s)
            else:
                held.setdefault(best.host, []).append(finish_s(best, now_s))
        return actions

    def _open_to(self, waiting: Waiting, fleet: Fleet) -> list[Host]:
        hosts = self.beliefs.hosts(waiting.request.model_key, fleet)
        left = [host for host in hosts if host.machine.name not in waiting.excluded]
        if hosts and not left:
            waiting.excluded = frozenset()
            return hosts
        return left

    def _send(self, waiting: Waiting, terms: Terms, now_s: float) -> list[Action]:
        request, host = waiting.request, terms.host
        machine, pace = host.machine, host.machine.pace
        observe.watch(machine, self._streamed, now_s)
        need = self.prices.need(request)
        flight = Flight(request, host, now_s, prompt=need.prompt, cached=terms.cached)
        flight.due_s = now_s + terms.load_s + terms.prefill_s
        flight.output = need.output
        flight.prefill_s = terms.prefill_s * pace.slow_unbiased / pace.slow_prefill
        if need.output:
            flight.step_s = terms.decode_s * pace.slow_unbiased / pace.slow_decode / need.output
        if host.flights:
            flight.stall_s = host.step_s(len(host.flights))
        flight.is_cold = not host.is_present or (host.is_hot and terms.load_s > 0)
        actions = self._make_room(terms, now_s)
        if flight.is_cold:
            host.begins_loading(now_s + terms.load_s)
        host.touched_s = now_s
        host.arrivals.add(now_s)
        host.mirror.take(request.prefix, host.slots, request.request_id, now_s)
        machine.started(flight)
        machine.used.add(now_s, terms.service_s / host.slots)
        self._clients[request.client] = self._clients.get(request.client, 0) + 1
        del self._waiting[request.request_id]
        self._sent[request.request_id] = (waiting, flight)
        return [*actions, Send(request.request_id, host.replica, KEEP_S)]

    def _preload(self, terms: Terms, now_s: float) -> list[Action]:
        host = terms.host
        actions = self._make_room(terms, now_s)
        host.begins_loading(now_s + terms.load_s)
        host.touched_s = now_s
        request = self._placement.request_for(host, now_s, KEEP_S)
        self._preloads[request.request_id] = host
        return [*actions, Preload(request, host.replica)]

    def _make_room(self, terms: Terms, now_s: float) -> list[Action]:
        for victim in terms.victims:
            victim.became_absent()
            victim.touched_s = now_s
        return [Unload(victim.replica) for victim in terms.victims]

    def _loaded(self, host: Host, usage: Usage | None, now_s: float, *, is_whole: bool) -> None:
        host.touched_s = now_s
        if is_whole and usage is not None:
            host.became_hot()
            observe.learn_load(host, usage)
        else:
            self._out(host, now_s)

    def _landed(self, request_id: str, now_s: float, *, is_whole: bool) -> tuple[Waiting, Flight]:
        """The request is off its machine."""
        waiting, flight = self._sent.pop(request_id)
        host = flight.host
        observe.watch(host.machine, self._streamed, now_s)
        host.machine.ended(flight)
        host.touched_s = now_s
        host.mirror.release(request_id, host.slots, now_s, kept=is_whole)
        self._clients[flight.request.client] -= 1
        return waiting, flight

    def _learn(self, flight: Flight, usage: Usage | None) -> None:
        if usage is None:
            return
        if flight.is_cold:
            observe.learn_load(flight.host, usage)
        observe.learn_answer(flight, usage)
        output = float(usage.output_tokens or 0)
        self.prices.lengths.learn(flight.request, usage.prompt_tokens, output)

    def _out(self, host: Host, now_s: float) -> None:
        host.machine.out_s = now_s
        host.machine.is_lost()
