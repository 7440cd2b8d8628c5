"""What the reference policy believes of machines: its own sends at once, reports as corrections.

Times are router seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ollama_herd.core import hardware as hw
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import EngineReport, Node, Replica
from ollama_herd.core.predict import SlotKey
from ollama_herd.core.prefix import SlotMirror
from ollama_herd.core.request import InferenceRequest, Kind
from ollama_herd.simulate.reference.lengths import Lengths
from ollama_herd.simulate.reference.rates import Decaying, ModelRates, Pace

LEAST_S = 1e-3
UTILISATION_MAX = 0.95

Streamed = Callable[[str], int]
"""Tokens that came of a request so far; 0 before its first one."""


@dataclass(eq=False)
class Flight:
    """A request on its machine, with what was predicted when it was sent."""

    request: InferenceRequest
    host: "Host"
    sent_s: float
    due_s: float = 0.0  # first token
    prompt: float = 1.0
    cached: float = 0.0
    output: float = 0.0
    prefill_s: float = 0.0  # without bias
    step_s: float = 0.0  # without bias
    stall_s: float = 0.0  # a decode step of those it joined
    is_cold: bool = False
    is_clean: bool = True  # nothing else was there until its first token
    speed: float = 1.0  # at its first token
    first_s: float = -1.0
    streamed: int = 0
    counted: int = 0  # tokens at the start of the interval that is being watched

    @property
    def kv_s(self) -> float:
        """Time a decode step takes to read its KV cache."""
        return self.host.rates.kv_s * (self.prompt + self.output / 2)


@dataclass(eq=False)
class Host:
    """A model on a machine: hot, loading until `eta_s`, or absent."""

    machine: "Machine"
    replica: Replica
    rates: ModelRates
    slots: int = 1
    is_hot: bool = False
    eta_s: float = 0.0  # 0: not loading
    touched_s: float = -1.0  # our last news of it
    context: int = 0
    flights: dict[str, Flight] = field(default_factory=dict)
    mirror: SlotMirror = field(default_factory=SlotMirror)
    arrivals: Decaying = field(default_factory=Decaying)

    @property
    def is_present(self) -> bool:
        return self.is_hot or self.eta_s > 0

    @property
    def load_s(self) -> float:
        return self.machine.pace.load_s(self.rates)

    def step_s(self, count: int) -> float:
        """A decode step of `count` sequences, without what reading their KV caches takes."""
        return self.rates.decode.value * (1 + self.machine.pace.alpha * (count - 1))

    def begins_loading(self, eta_s: float) -> None:
        self.is_hot = False
        self.eta_s = eta_s
        self.context = 0
        self.mirror.clear()

    def became_hot(self) -> None:
        self.is_hot = True
        self.eta_s = 0.0

    def became_absent(self) -> None:
        self.is_hot = False
        self.eta_s = 0.0
        self.context = 0
        self.mirror.clear()

    def remaining(self, lengths: Lengths, now_s: float) -> list[float]:
        """Seconds each of its flights is expected to take yet."""
        if not self.flights:
            return []
        machine = self.machine
        step_s = self.step_s(len(self.flights)) + sum(f.kv_s for f in self.flights.values())
        step_s *= max(1, len(machine.busy)) * machine.pace.slow_decode
        rests = []
        for flight in self.flights.values():
            if flight.first_s < 0:
                rest = max(flight.due_s - now_s, 0.0) + flight.output * step_s
            else:
                rest = lengths.rest(flight.request, flight.streamed) * step_s
            rests.append(max(rest, LEAST_S))
        return rests


class Machine:
    """One node: its pace, its models, what it has room for."""

    def __init__(self, node: Node) -> None:
        self.name = node.node_id
        self.pace = Pace(node)
        self.hosts: dict[str, Host] = {}  # by runner
        self.busy: dict[str, Host] = {}  # those with requests in flight
        self.in_flight = 0
        self.room_bytes = 0.0
        self.max_loaded = 3 * max(1, self.pace.hardware.gpus)
        self.used = Decaying()  # share of time, by predicted stays
        self.report_s = -1.0
        self.out_s: float | None = None  # refused a connection
        self.seen_s = 0.0  # since when the present interval is watched
        self.clean_tokens = 0.0  # streamed in clean intervals since the last look at the speed
        self.clean_expected = 0.0

    def utilisation(self, now_s: float) -> float:
        return min(UTILISATION_MAX, self.used.of(now_s))

    def loading(self, but: Host | None = None) -> Host | None:
        """The model that is being loaded, if any."""
        return next((h for h in self.hosts.values() if h.eta_s > 0 and h is not but), None)

    def started(self, flight: Flight) -> None:
        for host in self.busy.values():
            for other in host.flights.values():
                if other.first_s < 0:
                    other.is_clean = False
                if other.first_s < 0 or host is not flight.host:
                    flight.is_clean = False
        flight.host.flights[flight.request.request_id] = flight
        self.busy[flight.host.replica.runner] = flight.host
        self.in_flight += 1

    def ended(self, flight: Flight) -> None:
        host = flight.host
        del host.flights[flight.request.request_id]
        if not host.flights:
            self.busy.pop(host.replica.runner, None)
        self.in_flight -= 1

    def is_lost(self) -> None:
        """It refused a connection, or broke one off: what it held is gone."""
        for host in self.hosts.values():
            host.became_absent()


class Beliefs:
    """All machines and models, kept up with the fleet."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self._known: dict[str, Node] = {}
        self._hosts: dict[SlotKey, Host] = {}

    def hosts(self, model_key: str, fleet: Fleet) -> list[Host]:
        """Where the model is on a disk that can be reached, in the order of the machines' names."""
        found = []
        for replica in fleet.replicas.get(model_key, ()):
            machine = self.machines[replica.node_id]
            if machine.out_s is None:
                found.append(self.host(replica))
        return sorted(found, key=lambda host: host.machine.name)

    def host(self, replica: Replica) -> Host:
        host = self._hosts.get(replica.slot_key)
        if host is None:
            machine = self.machines[replica.node_id]
            known = [other.rates for other in machine.hosts.values()]
            host = Host(machine, replica, ModelRates(machine.pace.hardware, replica, known))
            if replica.model.capabilities != ("embedding",):
                host.slots = replica.slots or 1
            if replica.loaded is not None:
                host.became_hot()
                host.context = replica.loaded.context_length
            self._hosts[replica.slot_key] = machine.hosts[replica.runner] = host
        return host

    def is_hot_elsewhere(self, host: Host) -> bool:
        """Whether another machine has the model loaded."""
        runner = host.replica.runner
        others = (machine.hosts.get(runner) for machine in self.machines.values())
        return any(h is not None and h.is_hot and h is not host for h in others)

    def sync(self, fleet: Fleet) -> bool:
        """Take in newer reports; whether any of them says something else than the last one."""
        is_news = False
        for name, node in fleet.nodes.items():
            before = self._known.get(name)
            if before is node:
                continue
            self._known[name] = node
            machine = self.machines.get(name)
            if machine is None:
                machine = self.machines[name] = Machine(node)
            if node.last_report_s > machine.report_s:
                is_news |= self._reported(machine, node, before)
            elif before is not None and before.status is not node.status:
                is_news = True
        return is_news

    def _reported(self, machine: Machine, node: Node, before: Node | None) -> bool:
        machine.report_s = node.last_report_s
        was_out = machine.out_s is not None and node.last_report_s > machine.out_s
        if was_out:
            machine.out_s = None
        machine.pace.note_user(node.vitals.foreign_load_percent)
        for engine in node.engines:
            self._correct(machine, node, engine)
        return was_out or before is None or before.engines is not node.engines

    def _correct(self, machine: Machine, node: Node, engine: EngineReport) -> None:
        loaded = {model.name: model for model in engine.loaded}
        machine.max_loaded = engine.max_loaded or machine.max_loaded
        if machine.loading() is None:
            sizes = sum(model.size_bytes for model in engine.loaded)
            machine.room_bytes = _free_bytes(node, machine.pace.hardware) + sizes
        for host in machine.hosts.values():
            model = loaded.get(host.replica.model.name)
            if model is not None:
                host.became_hot()
                host.context = model.context_length
            elif not host.flights and host.touched_s < node.last_report_s:
                is_loading = host.eta_s > node.last_report_s
                if not is_loading:
                    host.became_absent()


def _free_bytes(node: Node, hardware: hw.Hardware) -> float:
    if hardware.compute is hw.Compute.DISCRETE:
        return float(sum(gpu.memory_free_bytes for gpu in node.vitals.gpus))
    return float(node.vitals.memory_available_bytes)


def is_counted(request: InferenceRequest) -> bool:
    """Whether its tokens come one by one."""
    return request.stream and request.kind is not Kind.EMBED
