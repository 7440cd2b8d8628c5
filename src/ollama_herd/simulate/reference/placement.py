"""Loads that the reference policy starts before a request asks for them."""

from collections.abc import Iterator, Mapping
from itertools import count

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.request import Dialect, InferenceRequest, Kind
from ollama_herd.simulate.reference.beliefs import Beliefs, Host
from ollama_herd.simulate.reference.cost import Need, Prices, Terms
from ollama_herd.simulate.reference.rates import Decaying

BACKLOG = 3
BACKLOG_EVERY_S = 1.0
SOONER = 0.8
FULL = 0.6
RATE_MIN = 1 / 900
UTILISATION_MAX = 0.6
SLOWER_MOST = 4.0
EVICT_SHARE = 0.25
UNHOSTED_FACTOR = 3.0


class Placement:
    """Plans loads; `plan` is asked at every tick."""

    def __init__(self, beliefs: Beliefs, prices: Prices, demand: Mapping[str, Decaying]) -> None:
        self._beliefs = beliefs
        self._prices = prices
        self._demand = demand
        self._backlog_s = -BACKLOG_EVERY_S
        self._serial = count(1)

    def plan(
        self, backlog: Mapping[str, int], fleet: Fleet, now_s: float, *, is_tick: bool
    ) -> Iterator[Terms]:
        """Hosts to load now. Each is to be begun before the next is asked for."""
        if now_s - self._backlog_s >= BACKLOG_EVERY_S:
            self._backlog_s = now_s
            for model_key in sorted(backlog):
                if backlog[model_key] >= BACKLOG:
                    yield from self._for_backlog(model_key, backlog[model_key], fleet, now_s)
        if is_tick:
            for model_key in sorted(self._demand):
                rate_s = self._demand[model_key].of(now_s)
                if rate_s >= RATE_MIN:
                    yield from self._for_demand(model_key, rate_s, fleet, now_s)

    def request_for(self, host: Host, now_s: float, keep_alive_s: float) -> InferenceRequest:
        """An empty prompt, which loads the model."""
        name = host.replica.model.name
        return InferenceRequest(
            request_id=f"preload-{next(self._serial)}",
            model=name,
            model_key=name,
            kind=Kind.GENERATE,
            dialect=Dialect.OLLAMA,
            path="/api/generate",
            arrived_s=now_s,
            is_load_only=True,
            keep_alive_s=keep_alive_s,
        )

    def _places(
        self, model_key: str, fleet: Fleet, now_s: float
    ) -> tuple[list[Terms], list[Terms]]:
        """The model's hosts, and where it could be loaded now."""
        usual = self._usual(model_key, now_s)
        hosts, others = [], []
        for host in self._beliefs.hosts(model_key, fleet):
            terms = self._prices.terms(host, usual, now_s)
            if host.is_present:
                hosts.append(terms)
            elif terms.starts_now and host.machine.loading() is None:
                others.append(terms)
        return hosts, others

    def _usual(self, model_key: str, now_s: float) -> Need:
        known = self._prices.lengths.model(model_key)
        request = InferenceRequest(
            request_id="usual",
            model=model_key,
            model_key=model_key,
            kind=Kind.CHAT,
            dialect=Dialect.OLLAMA,
            path="/api/chat",
            arrived_s=now_s,
        )
        return Need(request, known.prompt, known.mean)

    def _for_backlog(
        self, model_key: str, waiting: int, fleet: Fleet, now_s: float
    ) -> Iterator[Terms]:
        hosts, others = self._places(model_key, fleet, now_s)
        carried = sum(map(capacity_s, hosts))
        if not carried:
            return
        drain_s = waiting / carried
        least_s = min(terms.service_s for terms in hosts)
        best, best_gain = None, 0.0
        for terms in others:
            more = capacity_s(terms)
            with_it_s = (waiting + more * terms.load_s) / (carried + more)
            if with_it_s <= terms.load_s or with_it_s >= SOONER * drain_s:
                continue
            if terms.load_s + terms.service_s > drain_s + least_s:
                continue
            gain = 0.5 * waiting * (drain_s - with_it_s) - terms.evict_s
            gain -= 0.5 * terms.service_s * len(terms.host.machine.busy)
            if gain > best_gain:
                best, best_gain = terms, gain
        if best is not None:
            yield best

    def _for_demand(
        self, model_key: str, rate_s: float, fleet: Fleet, now_s: float
    ) -> Iterator[Terms]:
        hosts, others = self._places(model_key, fleet, now_s)
        if hosts and rate_s <= FULL * sum(map(capacity_s, hosts)):
            return
        factor = EVICT_SHARE * (1.0 if hosts else UNHOSTED_FACTOR)
        slowest_s = SLOWER_MOST * min((t.service_s for t in hosts), default=float("inf"))
        able = [
            terms
            for terms in others
            if terms.host.machine.utilisation(now_s) <= UTILISATION_MAX
            and terms.evict_s <= factor * terms.load_s
            and terms.service_s <= slowest_s
        ]
        best = min(able, key=lambda terms: _demand_cost(terms, now_s), default=None)
        if best is not None:
            yield best


def _demand_cost(terms: Terms, now_s: float) -> float:
    busy = 1 + 2 * terms.host.machine.utilisation(now_s)
    return terms.service_s * busy + 0.3 * terms.evict_s


def capacity_s(terms: Terms) -> float:
    """Usual requests a second with every slot of the host busy."""
    host = terms.host
    running = min(len(host.flights), host.slots - 1)
    alpha = host.machine.pace.alpha
    alone_s = terms.decode_s / (1 + alpha * running)
    together_s = host.slots * terms.prefill_s + alone_s * (1 + alpha * (host.slots - 1))
    return host.slots / max(together_s, 1e-3)
