"""What is under way where: the scheduler's own exact view, ahead of any heartbeat.

Counts what was sent, when, and what came back; believes a model loaded (or loading) from the
moment a request went there. Heartbeats correct this only where nothing of ours is in flight.
Written by the scheduler alone; `decide` reads it. Times are router monotonic seconds.
"""

from ollama_herd.core import slots
from ollama_herd.core.digests import served_digest
from ollama_herd.core.engine_record import FAILURES_TO_BAR
from ollama_herd.core.filters import Board, never_fits, unusable
from ollama_herd.core.fleet import USABLE, Fleet, engine_replicas
from ollama_herd.core.hours import HOURS, OwnerHours
from ollama_herd.core.inflight import (
    PAUSE_MIN_S,
    RATE_TAU_S,
    REPORT_LAG_S,
    NodeLoad,
    ReplicaLoad,
    Running,
)
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import EngineKind, Node, NodeStatus, NoticedBy, Replica, StuckRunner
from ollama_herd.core.place import Place
from ollama_herd.core.predict import BUSY_PERCENT, NodePace, Predictor, SlotKey
from ollama_herd.core.prefix import Continuation
from ollama_herd.core.request import InferenceRequest, OutcomeKind
from ollama_herd.core.runner import default_context

BAR_S = 5.0
BAR_MAX_S = 60.0
"""How long a failing replica rests: doubles with each further failure."""


class Load:
    """All replicas' load, by slot key, and the requests in flight."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.nodes: dict[str, NodeLoad] = {}
        self.replicas: dict[SlotKey, ReplicaLoad] = {}
        self.running: dict[str, Running] = {}
        self.by_runner: dict[str, list[ReplicaLoad]] = {}
        self.barred: set[SlotKey] = set()  # replicas out or resting: looked at one by one
        self.continuations: dict[str, Continuation] = {}
        self.recurring: set[ReplicaLoad] = set()  # asked again after a longer pause
        self.wall_s = 0.0  # seconds since 1970 less router seconds; 0: nobody told
        self.monday_s = 0.0  # router seconds of some Monday's midnight, by the clock on the wall
        self._boards: dict[str, Board] = {}
        self._unconfirmed: dict[SlotKey, ReplicaLoad] = {}

    def board(self, model_key: str, fleet: Fleet) -> Board | None:
        """The model's places; None when no node ever reported it."""
        replicas = fleet.replicas.get(model_key, ())
        gone = fleet.unusable.get(model_key, ())
        board = self._boards.get(model_key)
        if board is not None and board.replicas is replicas and board.unusable is gone:
            return board
        if not replicas and not gone:
            self._boards.pop(model_key, None)
            return None
        board = self._build(replicas, gone, fleet)
        self._boards[model_key] = board
        return board

    def _build(
        self, replicas: tuple[Replica, ...], gone: tuple[Replica, ...], fleet: Fleet
    ) -> Board:
        rejected = [unusable(replica, fleet.nodes, cloud=fleet.cloud_models) for replica in gone]
        served = served_digest(replicas)
        places = []
        for replica in replicas:
            node = fleet.nodes[replica.node_id]
            load = self._replica(node, replica)
            refused = never_fits(load, replica, served)
            if refused is None:
                places.append(Place(replica, load))
            else:
                rejected.append(refused)
        # Sorted once, so that no later step depends on the order in which nodes joined.
        places.sort(key=lambda place: (place.replica.node_id, place.replica.engine_id))
        rejected.sort(key=lambda r: (r.node_id, r.engine_id))
        return Board(replicas, gone, places, tuple(rejected))

    def _replica(self, node: Node, replica: Replica) -> ReplicaLoad:
        machine = self.nodes.get(node.node_id) or self._machine(node)
        if machine.node is not node:
            self._changed(machine, node)
        key = replica.slot_key
        load = self.replicas.get(key)
        if load is None:
            load = self._known_by_name(machine, replica)
        if load is None:
            load = ReplicaLoad(replica, machine, self.predictor.rates(node, replica))
            self.replicas[key] = load
            machine.replicas[key] = load
            self.by_runner.setdefault(replica.runner, []).append(load)
            if load.engine.out_since_s is not None or load.engine.is_failing:
                self.barred.add(key)  # the engine was out before this was asked for
            self._reported(load, replica)
        return load

    def _known_by_name(self, machine: NodeLoad, replica: Replica) -> ReplicaLoad | None:
        """The load of a model whose weights nobody knew yet, now under its weights: an agent tells
        them a little after the model, and what runs there goes on holding its slots.
        """
        key, name = replica.slot_key, canonical_name(replica.model.name)
        old = (key[0], key[1], name)
        load = None if old == key else self.replicas.get(old)
        if load is None:
            return None
        was_barred = old in self.barred
        self._forget_replica(load)
        load.key = key
        if load.pauses:
            self.recurring.add(load)
        if was_barred:
            self.barred.add(key)
        self.replicas[key] = machine.replicas[key] = load
        self.by_runner.setdefault(key[2], []).append(load)
        if machine.active.pop(old, None) is not None:
            machine.active[key] = load
        load.rates = self.predictor.rates(machine.node, replica)
        self._reported(load, replica)
        return load

    def _machine(self, node: Node) -> NodeLoad:
        machine = NodeLoad(node, self.predictor.pace(node), self.predictor.lengths)
        self.nodes[node.node_id] = machine
        return machine

    def _changed(self, machine: NodeLoad, node: Node) -> None:
        """Take in a newer belief about the node: what its engines hold, if that changed."""
        before = machine.node
        machine.node = node
        if not machine.pace.describes(node):
            self.predictor.pace(node)
            self._boards.clear()  # what fits may have changed
        is_usable = node.status in USABLE
        if node.engines is before.engines and is_usable == (before.status in USABLE):
            return
        machine.version += 1
        seen = set()
        for engine in node.engines:
            for replica in engine_replicas(node, engine):
                load = machine.replicas.get(replica.slot_key)
                # Aliases share a load; the first one of the report stands for it.
                if load is not None and load.key not in seen:
                    seen.add(load.key)
                    self._reported(load, replica)
        for key, load in list(machine.replicas.items()):
            if not load.running and (key not in seen or not is_usable):
                load.became_cold()
                if key not in seen:
                    self._forget_replica(load)

    def _reported(self, load: ReplicaLoad, replica: Replica) -> None:
        load.replica = replica
        load.set_slots()
        self._believe(load, load.node.node)

    def _believe(self, load: ReplicaLoad, node: Node) -> None:
        """Merge what the node said last with what we did since."""
        out_s = load.engine.out_since_s
        if out_s is not None and node.last_report_s <= out_s:
            return
        replica = load.replica
        loaded = replica.loaded
        load.is_reported_hot = loaded is not None or replica.kind is EngineKind.OPENAI
        if load.running or node.last_report_s <= load.changed_s + REPORT_LAG_S:
            if load.is_reported_hot != load.is_hot:
                self._unconfirmed[load.key] = load
            is_unloaded = not load.is_reported_hot or load.is_going(node.last_report_s)
            if is_unloaded or load.is_hot or load.running:
                return
        self._unconfirmed.pop(load.key, None)
        if not load.is_reported_hot:
            if load.is_hot:
                load.became_cold()
                load.node.version += 1
            return
        if not load.is_hot:
            load.is_hot = True
            load.node.version += 1
        if loaded is not None and loaded.context_length:
            _note_context(load, loaded.context_length)

    def sync(self, fleet: Fleet) -> None:
        """The fleet changed: take in what nodes reported."""
        nodes, known = fleet.nodes, self.nodes
        for node_id, node in nodes.items():
            machine = known.get(node_id)
            if machine is None:
                self._machine(node)
            elif node is not machine.node:
                self._changed(machine, node)
        if len(known) > len(nodes):
            for node_id in known.keys() - nodes.keys():
                self._drop(known[node_id])

    def saw_prompt(self, request: InferenceRequest, now_s: float) -> None:
        """A prompt arrived: whether it goes on from an earlier one tells what slots are worth."""
        found = self.continuations.get(request.model_key)
        if found is None:
            found = self.continuations[request.model_key] = Continuation()
        found.arrived(request.prefix, now_s)

    def refresh(self, fleet: Fleet, now_s: float) -> None:
        """A tick: beliefs no report confirmed, busy shares, owners at work, rested replicas."""
        self.sync(fleet)
        self._unbar()
        for load in list(self._unconfirmed.values()):
            self._believe(load, load.node.node)
        hour = int((now_s - self.monday_s) // 3600) % HOURS
        for machine in self.nodes.values():
            machine.decay(now_s)
            _note_owner(machine.pace, machine.node, hour, now_s)
            machine.pace.refresh(now_s)

    def _drop(self, machine: NodeLoad) -> None:
        """Forget a node that left the fleet for good, once nothing of ours runs there."""
        if machine.in_flight:
            return
        node_id = machine.node.node_id
        del self.nodes[node_id]
        self.predictor.forget(node_id)
        for load in list(machine.replicas.values()):
            self._forget_replica(load)

    def _forget_replica(self, load: ReplicaLoad) -> None:
        key = load.key
        del load.node.replicas[key]
        del self.replicas[key]
        self._unconfirmed.pop(key, None)
        self.barred.discard(key)
        self.recurring.discard(load)
        same = self.by_runner[key[2]]
        same.remove(load)
        if not same:
            del self.by_runner[key[2]]
        self._boards.clear()  # a model's places may hold it

    def start(self, run: Running, now_s: float) -> None:
        """A request was sent. `run` carries the prediction made for it."""
        replica, node = run.replica, run.node
        node.advance(now_s)
        request_id = run.request.request_id
        # Whoever shares a machine with others gives no clean sample of its own speed; those that
        # run already find out about this one by the node's count of starts.
        node.starts += 1
        run.number = node.starts
        run.is_alone = not node.in_flight
        run.is_prefill_clean = not node.prefilling and all(
            r is replica for r in node.active.values()
        )
        replica.started(run)
        node.active[replica.key] = replica
        node.in_flight += 1
        node.prefilling += 1
        if run.request.stream:
            replica.prompts += 1
            replica.chunk_s = run.chunk_s()
        node.version += 1
        replica.changed_s = now_s
        run.progress_s = replica.progress_s
        run.dirty_s = node.dirty_s
        if not run.request.is_load_only:
            if replica.arrivals_at_s and now_s - replica.arrivals_at_s > PAUSE_MIN_S:
                replica.paused(now_s - replica.arrivals_at_s)
                self.recurring.add(replica)
            replica.arrivals_per_s = replica.rate_per_s(now_s) + 1 / RATE_TAU_S
            replica.arrivals_at_s = now_s
        self.running[request_id] = run

    def first_byte(self, run: Running, now_s: float) -> None:
        """The first byte of the answer came: loaded, prompt evaluated, decoding."""
        if run.first_byte_s < 0:
            run.node.advance(now_s)
            self._begins(run, now_s)

    def _begins(self, run: Running, now_s: float) -> None:
        replica, node = run.replica, run.node
        run.first_byte_s = now_s
        if node.starts != run.number:
            run.is_prefill_clean = False
        if run.request.stream:
            run.progress_s = replica.progress_s
            run.dirty_s = node.dirty_s
        _prompt_is_over(run)
        self._became_hot(replica)
        if replica.options is None:
            replica.options = run.options  # else the engine had loaded it anew
        if replica.replica.slots is None:
            run.overlapped = len(replica.running) - 1

    def _became_hot(self, replica: ReplicaLoad) -> None:
        if replica.is_hot and not replica.loading_until_s:
            return
        replica.is_hot = True
        replica.ends_loading()
        replica.node.version += 1
        if not replica.is_reported_hot:
            self._unconfirmed[replica.key] = replica

    def end(self, run: Running, now_s: float, *, answered: bool, at_once: bool = False) -> None:
        """The request left its replica, however; `at_once` with the first byte of its answer."""
        replica, node = run.replica, run.node
        node.advance(now_s)
        if at_once and run.first_byte_s < 0:
            self._begins(run, now_s)
        del self.running[run.request.request_id]
        replica.ended(run)
        if node.starts != run.number:
            run.is_alone = False
            if run.first_byte_s < 0:
                run.is_prefill_clean = False
        if not replica.running:
            node.active.pop(replica.key, None)
        node.in_flight -= 1
        if run.first_byte_s < 0:
            _prompt_is_over(run)
        node.version += 1
        replica.changed_s = now_s
        if replica.replica.slots is None:
            slots.learn(run, now_s, answered=answered)
        if replica.loading_until_s:
            if answered:
                self._became_hot(replica)
            elif not replica.running:
                # The engine gives up a load nobody waits for any more.
                replica.ends_loading()

    def evicted(self, victim: ReplicaLoad, now_s: float) -> Replica:
        """It is being unloaded to make room."""
        victim.became_cold()
        victim.changed_s = victim.evicted_s = now_s
        victim.node.version += 1
        self._unconfirmed[victim.key] = victim
        return victim.replica

    def doubt(self, replica: ReplicaLoad) -> None:
        """The engine refused the request that should have loaded the model: most likely it did
        not load it.
        """
        if not replica.is_reported_hot:
            replica.became_cold()
            replica.node.version += 1

    def unreachable(self, replica: ReplicaLoad, now_s: float) -> None:
        """A connection failed: the engine is out until its node reports anew."""
        replica.engine.out_since_s = now_s
        self._bar_engine(replica)
        for load in replica.node.replicas.values():
            if load.engine is replica.engine:
                self._unconfirmed[load.key] = load
                if not load.running and load.replica.kind is EngineKind.OLLAMA:
                    load.became_cold()
        replica.node.version += 1

    def failed(self, run: Running, outcome: OutcomeKind, now_s: float) -> None:
        """A request failed for a fault of the replica's own."""
        replica = run.replica
        if outcome is OutcomeKind.SILENT and not run.is_cold:
            replica.silent_s = now_s
        # A stream that broke off began well: its runner died, not the engine's server.
        is_fault = outcome is not OutcomeKind.TRUNCATED and run.first_byte_s < 0
        self.blame(replica, now_s, is_fault=is_fault)

    def blame(self, replica: ReplicaLoad, now_s: float, *, is_fault: bool = False) -> None:
        """The replica failed a request that another one answered, or could have."""
        replica.failures += 1
        engine = replica.engine
        engine.failed(replica.key[2], is_fault=is_fault)
        if replica.failures >= FAILURES_TO_BAR:
            replica.barred_until_s = now_s + _rest_s(replica.failures)
            self.barred.add(replica.key)
            if replica.silent_s is not None and replica.stuck is None:
                self.stuck(replica, NoticedBy.REQUESTS, now_s)
        if engine.is_failing:
            engine.barred_until_s = now_s + _rest_s(engine.failures)
            self._bar_engine(replica)

    def _bar_engine(self, replica: ReplicaLoad) -> None:
        """All replicas of its engine are to be looked at, whichever of them is forgotten first."""
        engine, loads = replica.engine, replica.node.replicas.values()
        self.barred.update(load.key for load in loads if load.engine is engine)

    def stuck(self, replica: ReplicaLoad, noticed_by: NoticedBy, now_s: float) -> None:
        """The runner hangs: left out as long as others are there, until it answers."""
        if replica.silent_s is None:
            replica.silent_s = now_s
        since_s = replica.silent_s if replica.stuck is None else replica.stuck.since_s
        node_id, engine_id, runner = replica.key
        replica.stuck = StuckRunner(
            node_id=node_id,
            engine_id=engine_id,
            model=replica.replica.model.name,
            runner=runner,
            since_s=since_s,
            noticed_by=noticed_by,
        )
        self.barred.add(replica.key)

    def stuck_runners(self) -> tuple[StuckRunner, ...]:
        """Those that hang now."""
        found = (self.replicas[key].stuck for key in sorted(self.barred))
        return tuple(stuck for stuck in found if stuck is not None)

    def answered(self, run: Running) -> None:
        """A request got its whole answer."""
        run.replica.last = run.request
        self.absolve(run.replica)

    def absolve(self, replica: ReplicaLoad) -> None:
        """The replica answered."""
        replica.failures = 0
        replica.barred_until_s = 0.0
        replica.silent_s = None
        replica.stuck = None
        replica.engine.answered()
        self.barred.discard(replica.key)

    def _unbar(self) -> None:
        for key in list(self.barred):
            load = self.replicas[key]
            engine = load.engine
            out_s = engine.out_since_s
            if out_s is not None and load.node.node.last_report_s > out_s:
                engine.out_since_s = None
            is_failing = load.failures >= FAILURES_TO_BAR or engine.is_failing
            if engine.out_since_s is None and load.stuck is None and not is_failing:
                self.barred.discard(key)


def _prompt_is_over(run: Running) -> None:
    run.node.prefilling -= 1
    run.replica.prompts -= run.request.stream


def _note_context(load: ReplicaLoad, context: int) -> None:
    """The engine tells which window is loaded."""
    if load.context_length and context != load.context_length:
        load.options = None  # somebody else had it reloaded
        load.has_new_runner()
        load.mirror.clear()
    load.context_length = context
    if load.options is None:
        default = default_context(load)
        if default:
            load.options = () if context == default else (("num_ctx", context),)
    elif not load.options:
        load.learned_context = context


def _rest_s(failures: int) -> float:
    return min(BAR_S * 2.0 ** min(failures - FAILURES_TO_BAR, 6), BAR_MAX_S)


def _note_owner(pace: NodePace, node: Node, hour: int, now_s: float) -> None:
    """Somebody uses the machine, or it throttles: expect it slower until measured."""
    foreign = node.vitals.foreign_load_percent
    is_used = foreign is not None and foreign >= BUSY_PERCENT
    is_busy = node.vitals.throttled or is_used
    if foreign is None:
        if pace.hours is not None:
            pace.hours.share = 0.0  # a node that does not tell any more is not guessed about
    elif node.status is NodeStatus.ONLINE:
        if pace.hours is None:
            pace.hours = OwnerHours()
        pace.hours.saw(is_used=is_used, hour=hour, now_s=now_s)
    if not is_busy:
        pace.busy_since_s = None
    elif pace.busy_since_s is None:
        pace.busy_since_s = now_s
