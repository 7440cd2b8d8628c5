"""The reference policy's cost of a machine for a request, term by term, in seconds."""

from collections.abc import Sequence
from math import exp
from typing import NamedTuple

from ollama_herd.core.prefix import BLOCK_TOKENS
from ollama_herd.core.request import InferenceRequest
from ollama_herd.simulate.reference.beliefs import LEAST_S, Beliefs, Host
from ollama_herd.simulate.reference.lengths import Continuations, Lengths

OTHERS_WEIGHT = 1.5
EVICT_WEIGHT = 1.0
LOST_WEIGHT = 4.0
FUTURE_WEIGHT = 1.0

CHUNK = 512
ATTENTION_TOKENS = 32768
RELOAD_PAUSE_S = 2.0
BLOCKED_SHARE = 0.2
HOT_ELSEWHERE = 0.4
LEAST_LOST_TOKENS = 128


class Need(NamedTuple):
    """A request as it is expected to be. `context` is the `num_ctx` it asks for, 0 none."""

    request: InferenceRequest
    prompt: float
    output: float
    context: int = 0


class Terms(NamedTuple):
    """What a request costs on a host, unweighted; `cost` is their weighted sum."""

    host: Host
    wait_s: float
    load_s: float
    prefill_s: float
    decode_s: float
    others_s: float  # delay of those that run there
    evict_s: float
    lost_s: float  # prompt evaluation that somebody else may have to repeat
    future_s: float  # the machine kept from what may come
    starts_now: bool
    cached: float
    victims: tuple[Host, ...] = ()

    @property
    def cost(self) -> float:
        return (
            self.wait_s
            + self.load_s
            + self.service_s
            + OTHERS_WEIGHT * self.others_s
            + EVICT_WEIGHT * self.evict_s
            + LOST_WEIGHT * self.lost_s
            + FUTURE_WEIGHT * self.future_s
        )

    @property
    def service_s(self) -> float:
        return self.prefill_s + self.decode_s


class Readiness(NamedTuple):
    """What has to happen before the prompt can be evaluated."""

    wait_s: float = 0.0
    load_s: float = 0.0
    evict_s: float = 0.0
    starts_now: bool = True
    victims: tuple[Host, ...] = ()


class Service(NamedTuple):
    """The times of the request itself. `pure_s`: its prompt without the steps of others between."""

    prefill_s: float
    pure_s: float
    decode_s: float
    cached: float
    lost_s: float
    running: int  # beside it


class Prices:
    """Prices hosts; holds what is learned of lengths and conversations."""

    def __init__(self, beliefs: Beliefs) -> None:
        self.lengths = Lengths()
        self.continuations: dict[str, Continuations] = {}
        self._beliefs = beliefs

    def need(self, request: InferenceRequest) -> Need:
        context = int(dict(request.load_options).get("num_ctx", 0))
        return Need(request, self.lengths.prompt(request), self.lengths.output(request), context)

    def terms(self, host: Host, need: Need, now_s: float, held: Sequence[float] = ()) -> Terms:
        """All terms of a host now; `held` are finish times of those already held for it."""
        ready = self._readiness(host, need, now_s, held)
        service = self._service(host, need, now_s, is_waiting=ready.wait_s > 0)
        return Terms(
            host=host,
            wait_s=ready.wait_s,
            load_s=ready.load_s,
            prefill_s=service.prefill_s,
            decode_s=service.decode_s,
            others_s=self._others(host, service, now_s),
            evict_s=ready.evict_s,
            lost_s=service.lost_s,
            future_s=host.machine.utilisation(now_s) * (service.prefill_s + service.decode_s),
            starts_now=ready.starts_now,
            cached=service.cached,
            victims=ready.victims,
        )

    def _service(self, host: Host, need: Need, now_s: float, *, is_waiting: bool) -> Service:
        machine, rates = host.machine, host.rates
        pace = machine.pace
        count = len(host.flights)
        running = min(count, host.slots - 1) if is_waiting else count
        models = len(machine.busy) + (host.replica.runner not in machine.busy)
        kv_s = sum(f.kv_s for f in host.flights.values()) * running / count if count else 0.0
        stall_s = host.step_s(running) + kv_s if running else 0.0
        slot, common = host.mirror.find(need.request.prefix, host.slots)
        cached = min(common * BLOCK_TOKENS, need.prompt - 1)
        new = need.prompt - cached
        compute_s = new * (1 + (cached + new / 2) / ATTENTION_TOKENS) / rates.prefill.value
        step_s = host.step_s(running + 1) + kv_s + rates.kv_s * (need.prompt + need.output / 2)
        lost_s = 0.0
        known = self.continuations.get(need.request.model_key)
        if slot is not None and known is not None:
            tokens = (len(slot.chain) - common) * BLOCK_TOKENS
            if tokens >= LEAST_LOST_TOKENS:
                again_s = tokens / rates.prefill.value / pace.speed
                lost_s = known.chance(now_s - slot.used_s) * again_s * (1 + machine.in_flight)
        slow_prefill = models * pace.slow_prefill
        return Service(
            prefill_s=(compute_s + new / CHUNK * stall_s) * slow_prefill,
            pure_s=compute_s * slow_prefill,
            decode_s=need.output * step_s * models * pace.slow_decode,
            cached=cached,
            lost_s=lost_s,
            running=running,
        )

    def _readiness(self, host: Host, need: Need, now_s: float, held: Sequence[float]) -> Readiness:
        if host.is_present and need.context > host.context > 0:
            return self._reload(host, now_s)
        count = len(host.flights) + len(held)
        wait_s = 0.0
        if count >= host.slots:
            ends = host.remaining(self.lengths, now_s) + [max(at - now_s, 0.0) for at in held]
            wait_s = max(sorted(ends)[count - host.slots], LEAST_S)
        if host.is_hot:
            return Readiness(wait_s, starts_now=not wait_s)
        if host.eta_s > 0:
            left_s = 0.0 if wait_s else max(host.eta_s - now_s, LEAST_S)
            return Readiness(wait_s, left_s, starts_now=not wait_s)
        other = host.machine.loading(but=host)
        ahead_s = max(other.eta_s - now_s, LEAST_S) if other is not None else 0.0
        evict_s, blocked_s, victims = self.eviction(host, now_s)
        return Readiness(
            max(wait_s, blocked_s),
            host.load_s + ahead_s,
            evict_s,
            not (wait_s or blocked_s or other),
            victims,
        )

    def _reload(self, host: Host, now_s: float) -> Readiness:
        wait_s = max(host.remaining(self.lengths, now_s), default=0.0)
        other = host.machine.loading()
        ahead_s = max(other.eta_s - now_s, LEAST_S) if other is not None else 0.0
        load_s = host.load_s + ahead_s + RELOAD_PAUSE_S
        return Readiness(wait_s, load_s, starts_now=not (wait_s or other))

    def eviction(self, host: Host, now_s: float) -> tuple[float, float, tuple[Host, ...]]:
        """(loss by what has to go, wait until a busy one could, what has to go)."""
        machine = host.machine
        present = [h for h in machine.hosts.values() if h is not host and h.is_present]
        missing = host.rates.size_bytes - machine.room_bytes
        missing += sum(h.rates.size_bytes for h in present)
        surplus = len(present) + 1 - machine.max_loaded
        idle = [
            (self.loss_s(h, now_s) / h.rates.size_gb, h.replica.runner, h)
            for h in present
            if h.is_hot and not h.flights
        ]
        total, victims = 0.0, []
        for each_s, _, victim in sorted(idle):
            if missing <= 0 and surplus <= 0:
                break
            total += each_s * victim.rates.size_gb
            victims.append(victim)
            missing -= victim.rates.size_bytes
            surplus -= 1
        waits = [self._idle_in_s(h, now_s) for h in present if h not in victims]
        if waits and (missing > 0 or surplus > 0):
            wait_s = min(waits)
            return BLOCKED_SHARE * wait_s, wait_s, ()
        return total, 0.0, tuple(victims)

    def _idle_in_s(self, host: Host, now_s: float) -> float:
        loading_s = host.eta_s - now_s if host.eta_s > 0 else 0.0
        return max(LEAST_S, loading_s, *host.remaining(self.lengths, now_s))

    def loss_s(self, victim: Host, now_s: float) -> float:
        """What it costs to have it unloaded."""
        rate = victim.arrivals.of(now_s)
        share = HOT_ELSEWHERE if self._beliefs.is_hot_elsewhere(victim) else 1.0
        return (1 - exp(-600 * rate)) * min(3.0, 1 + 30 * rate) * victim.load_s * share

    def _others(self, host: Host, service: Service, now_s: float) -> float:
        machine = host.machine
        alpha = machine.pace.alpha
        if host.flights:
            share = alpha / (1 + alpha * max(service.running - 1, 0))
            return sum(
                min(service.pure_s, rest) + min(service.decode_s, rest) * share
                for rest in host.remaining(self.lengths, now_s)
            )
        models = len(machine.busy) + 1
        stay_s = service.prefill_s + service.decode_s
        return sum(
            min(stay_s, rest) / models
            for other in machine.busy.values()
            for rest in other.remaining(self.lengths, now_s)
        )


def cheapest(found: Sequence[Terms]) -> Terms:
    """The least cost; of equal ones the first."""
    return min(found, key=lambda terms: terms.cost)


def finish_s(terms: Terms, now_s: float) -> float:
    """When a request sent there would be done."""
    return now_s + terms.wait_s + terms.load_s + terms.service_s
