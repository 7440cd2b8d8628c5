"""Whatever happens in whatever order, the scheduler keeps its promises."""

from collections import Counter

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ollama_herd.core.fleet import NodeDrained, TimePassed, apply
from ollama_herd.core.names import canonical_name
from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import OutcomeKind, Priority, RefusalKind, Usage
from ollama_herd.core.routing import decide
from ollama_herd.core.scheduler import Grant, QueueSettings, Refuse, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NAMES = ["small:1b", "big:70b"]
NODES = {"a": (NAMES, 1), "b": (NAMES, 2), "c": (["small:1b"], None)}
LIMIT = 12
TIMEOUT_S = 60.0
FAILED = [
    OutcomeKind.ENGINE_ERROR,
    OutcomeKind.ENGINE_BUSY,
    OutcomeKind.UNREACHABLE,
    OutcomeKind.CLOSED_EARLY,
    OutcomeKind.SILENT,
]
ENDED = [*FAILED, OutcomeKind.COMPLETED, OutcomeKind.CLIENT_ERROR, OutcomeKind.TRUNCATED]


def size_of(name):
    return 1.0 if name == "small:1b" else 40.0


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now_s = 1000.0
        self.seq = dict.fromkeys(NODES, 0)
        self.scheduler = Scheduler(QueueSettings(limit=LIMIT, timeout_s=TIMEOUT_S), Predictor())
        self.fleet = fleet_of([])
        self.waiting = {}
        self.granted = {}  # request id -> (request, replica)
        self.tried = {}
        self.over = set()
        self.twins = {}  # id of a second try -> id of the first
        self.order = {}  # lane of equal requests -> ids by arrival
        for node_id in NODES:
            self.heard(node_id, loaded=True)

    # -- what happens ------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(NAMES),
        client=st.sampled_from(["ann", "bob"]),
        prompt=st.sampled_from([10, 3000]),
        priority=st.sampled_from(Priority),
        stream=st.booleans(),
    )
    def arrives(self, name, client, prompt, priority, stream):
        asked = request(
            name,
            self.now_s,
            client=client,
            prompt_tokens=prompt,
            priority=priority,
            stream=stream,
            request_id=f"r{len(self.tried):04}",
        )
        self.waiting[asked.request_id] = asked
        self.tried[asked.request_id] = frozenset()
        before = len(self.waiting) - 1
        effects = self.scheduler.on_request(asked, self.fleet, self.now_s)
        self.order.setdefault((name, client, prompt, priority), []).append(asked.request_id)
        self.take(effects)
        refused = [e for e in effects if isinstance(e, Refuse)]
        if any(e.refusal.kind is RefusalKind.QUEUE_FULL for e in refused):
            assert before >= LIMIT

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def first_byte(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.granted)))
        self.scheduler.on_first_byte(request_id, self.now_s)

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), outcome=st.sampled_from(ENDED), tokens=st.integers(0, 5000))
    def finishes(self, data, outcome, tokens):
        request_id = data.draw(st.sampled_from(sorted(self.granted)))
        usage = Usage(prompt_tokens=100, output_tokens=tokens, prefill_ms=3.0, decode_ms=900.0)
        del self.granted[request_id]
        self.over.add(request_id)
        self.take(self.scheduler.on_finished(request_id, outcome, usage, self.fleet, self.now_s))

    @precondition(lambda self: self.alone())
    @rule(data=st.data(), outcome=st.sampled_from(FAILED))
    def is_retried(self, data, outcome):
        """Of two tries the one that fails is lost, see `one_of_two_is_lost`."""
        request_id = data.draw(st.sampled_from(sorted(self.alone())))
        asked, replica = self.granted.pop(request_id)
        self.tried[request_id] |= {replica.slot_key}
        self.waiting[request_id] = asked
        self.unlist(request_id)
        self.take(self.scheduler.on_retry(request_id, outcome, self.fleet, self.now_s))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def is_hedged(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.granted)))
        asked, silent = self.granted[request_id]
        twin_id = f"{request_id}+{len(self.tried)}"
        hangs = self.scheduler.load.replicas[silent.slot_key].silent_s is not None
        beside = len(list(self.pairs()))
        grant = self.scheduler.on_hedge(request_id, twin_id, self.fleet, self.now_s)
        if grant is None:
            return
        assert hangs or beside < max(1, len(self.granted) // 10)
        assert grant.request_id == twin_id
        assert grant.decision.winner.replica.node_id != silent.node_id
        self.twins[twin_id] = request_id
        self.tried[twin_id] = self.tried[request_id] | {silent.slot_key}
        self.check_grant(grant, msgspec.structs.replace(asked, request_id=twin_id))

    @precondition(lambda self: any(self.pairs()))
    @rule(data=st.data(), outcome=st.sampled_from([*FAILED, OutcomeKind.CANCELLED]))
    def one_of_two_is_lost(self, data, outcome):
        pair = data.draw(st.permutations(data.draw(st.sampled_from(sorted(self.pairs())))))
        loser, keeper = pair
        _, replica = self.granted.pop(loser)
        self.tried[keeper] |= {replica.slot_key}
        self.over.add(loser)
        self.take(self.scheduler.on_lost(loser, outcome, keeper, self.fleet, self.now_s))

    @precondition(lambda self: self.granted or self.waiting)
    @rule(data=st.data())
    def client_leaves(self, data):
        request_id = data.draw(st.sampled_from(sorted({**self.granted, **self.waiting})))
        self.granted.pop(request_id, None)
        self.waiting.pop(request_id, None)
        self.unlist(request_id)
        self.over.add(request_id)
        self.take(self.scheduler.on_cancel(request_id, self.fleet, self.now_s))

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def is_told_twice(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.over)))
        call = data.draw(st.sampled_from(["finished", "cancel", "retry", "first"]))
        effects = ()
        if call == "finished":
            effects = self.scheduler.on_finished(
                request_id, OutcomeKind.COMPLETED, None, self.fleet, self.now_s
            )
        elif call == "cancel":
            effects = self.scheduler.on_cancel(request_id, self.fleet, self.now_s)
        elif call == "retry":
            effects = self.scheduler.on_retry(
                request_id, OutcomeKind.ENGINE_ERROR, self.fleet, self.now_s
            )
        else:
            self.scheduler.on_first_byte(request_id, self.now_s)
        assert not effects

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0, 20.0]))
    def time_passes(self, seconds):
        self.now_s += seconds
        self.fleet = apply(self.fleet, TimePassed(2.0), self.now_s)
        self.tick()

    @rule(node_id=st.sampled_from(sorted(NODES)), loaded=st.booleans(), broken=st.booleans())
    def reports(self, node_id, loaded, broken):
        self.heard(node_id, loaded=loaded, error="does not answer" if broken else "")
        self.tick()

    @rule(node_id=st.sampled_from(sorted(NODES)), draining=st.booleans())
    def drains(self, node_id, draining):
        self.fleet = apply(self.fleet, NodeDrained(node_id, draining), self.now_s)
        self.tick()

    # -- how it is told ----------------------------------------------------------------------

    def heard(self, node_id, *, loaded, error=""):
        self.seq[node_id] += 1
        names, slots = NODES[node_id]
        models = [model(name, size_of(name)) for name in names]
        shown = [names[0]] if loaded else []
        told = report(
            node_id, [engine(models, shown, slots=slots, error=error)], seq=self.seq[node_id]
        )
        self.fleet = fleet_of([told], self.now_s, self.fleet)

    def tick(self):
        """A second after the last one at the latest, and a tick of our own right now."""
        self.now_s += 1.0
        self.take(self.scheduler.on_fleet(self.fleet, self.now_s))
        self.nothing_startable_waits()

    def take(self, effects):
        for effect in effects:
            asked = self.waiting.pop(effect.request_id)  # resolves once, and only while it waits
            if isinstance(effect, Refuse):
                self.over.add(effect.request_id)
                self.unlist(effect.request_id)
                continue
            self.check_grant(effect, asked)

    def check_grant(self, effect: Grant, asked):
        winner = effect.decision.winner
        replica = winner.replica
        assert winner.starts_now
        assert replica in self.fleet.replicas[canonical_name(asked.model)]
        assert replica.slot_key not in self.tried[asked.request_id]
        self.granted[asked.request_id] = (asked, replica)
        running = Counter(r.slot_key for _, r in self.granted.values())
        assert running[replica.slot_key] <= (replica.slots or 1)
        if not self.tried[asked.request_id]:
            key = (asked.model, asked.client, asked.prompt_tokens, asked.priority)
            assert self.order[key][0] == asked.request_id  # first in, first out among equals
        self.unlist(asked.request_id)

    def pairs(self):
        return [p for p in self.twins.items() if set(p) <= self.granted.keys()]

    def alone(self):
        return self.granted.keys() - {one for pair in self.pairs() for one in pair}

    def unlist(self, request_id):
        for ids in self.order.values():
            if request_id in ids:
                ids.remove(request_id)

    def nothing_startable_waits(self):
        """Work-conserving: a tick leaves nobody waiting whose cheapest place is free."""
        if len(self.waiting) > 8:
            return
        for asked in self.waiting.values():
            decision = decide(
                asked,
                self.fleet,
                self.scheduler.load,
                self.scheduler.load.predictor,
                self.now_s,
                self.tried[asked.request_id],
            )
            assert decision.winner is None or not decision.winner.starts_now

    # -- what always holds -------------------------------------------------------------------

    @invariant()
    def depth_is_a_recount(self):
        view = self.scheduler.queue(self.now_s)
        assert view.waiting == len(self.waiting)
        assert {r.request_id for r in view.requests} == set(self.waiting)
        assert view.in_flight == len(self.granted)
        counted = Counter(r.slot_key for _, r in self.granted.values())
        shown = {(r.node_id, r.engine_id, r.runner): r.in_flight for r in view.replicas}
        assert {k: n for k, n in shown.items() if n} == dict(counted)
        for name in NAMES:
            key = canonical_name(name)
            positions = [r.position for r in view.requests if r.model_key == key]
            assert positions == list(range(1, len(positions) + 1))

    @invariant()
    def nobody_waits_beyond_the_bounds(self):
        assert len(self.waiting) <= LIMIT + len(FAILED) * len(NODES)
        for asked in self.waiting.values():
            assert self.now_s - asked.arrived_s <= TIMEOUT_S + 21

    def is_out(self, replica):
        """Its engine refused a connection, to whatever model, since its node reported last."""
        known = self.scheduler.load.replicas.get(replica.slot_key)
        out_s = known.engine.out_since_s if known is not None else None
        return out_s is not None and self.fleet.nodes[replica.node_id].last_report_s <= out_s

    @invariant()
    def idle_machines_serve(self):
        """A model that waits has not all of its usable replicas idle."""
        load = self.scheduler.load
        for asked in self.waiting.values():
            usable = [
                r
                for r in self.fleet.replicas.get(canonical_name(asked.model), ())
                if r.slot_key not in self.tried[asked.request_id]
                and r.slot_key not in load.barred
                and not self.is_out(r)
            ]
            busy = [r for r in usable if load.nodes[r.node_id].in_flight]
            assert busy or not usable


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
